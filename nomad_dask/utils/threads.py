"""A thread pool for kernels that release the GIL. Results do not depend on the number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """A pool that runs one function over the chunks of a range.

    Numba's parallel loops are not used: their threading layers spin while idle, cannot be entered from two threads
    at once, and make the order of sums depend on the number of threads.

    Parameters
    ----------
    n : int
        Number of threads.
    """

    def __init__(self, n: int) -> None:
        self.n = max(1, n)
        self._pool = ThreadPoolExecutor(self.n, thread_name_prefix="nomad") if self.n > 1 else None

    def run(self, work: Callable[[int, int], object], n_items: int, chunk: int) -> None:
        """Call ``work(start, stop)`` for every chunk of ``range(n_items)``, in any order.

        Every call sees the context variables of the caller: by them a task reports its progress, and stops.
        """
        starts = range(0, n_items, chunk)
        if self._pool is None or len(starts) <= 1:
            for s in starts:
                work(s, min(s + chunk, n_items))
            return
        # A context of its own for each call: one cannot be entered by two threads.
        futures = [self._pool.submit(copy_context().run, work, s, min(s + chunk, n_items)) for s in starts]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()  # queued chunks would delay the error
            raise

    def close(self) -> None:
        """Shut the pool down."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def thread_pool(n: int) -> Iterator[Threads]:
    """Yield a pool of `n` threads, with BLAS limited to one thread in each of them."""
    pool = Threads(n)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield pool
    finally:
        pool.close()


def map_ahead(work: Callable[[Item], Result], items: Sequence[Item], n: int) -> Iterator[Result]:
    """Yield ``work(item)`` for each item, in order, computed by `n` threads ahead of the caller.

    At most `n` results are held besides the one that the caller has.
    """
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n, thread_name_prefix="nomad") as pool:
        for i in range(len(items)):
            while len(ahead) < n and i + len(ahead) < len(items):
                ahead.append(pool.submit(work, items[i + len(ahead)]))
            yield ahead.popleft().result()
