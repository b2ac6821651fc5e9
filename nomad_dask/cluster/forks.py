"""Processes that were forked, which inherit the locks of their parent and none of the threads that release them."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from typing import Any

from nomad_dask.errors import ClusterError

_ANSWER_SECONDS = 0.5


class ProcessLock:
    """A lock that can tell whether its holder is a thread of another process: then nothing releases it here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        self._lock.acquire()
        self._holder = os.getpid()

    def release(self) -> None:
        """Let another thread take the lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def is_inherited(self) -> bool:
        """Return whether the process was forked while a thread of its parent held the lock."""
        return self._lock.locked() and self._holder != os.getpid()


def check_fork(lock: ProcessLock) -> None:
    """Check that a cluster can be embedded in this process, and restore what Dask needs for it after a fork.

    Parameters
    ----------
    lock : ProcessLock
        The lock that tasks of this process hold.

    Raises
    ------
    ClusterError
        The process was forked during a fit.
    """
    if lock.is_inherited():
        raise ClusterError(
            "This process was forked while a fit was running in its parent, and has inherited locks that nothing "
            "releases: start it with the method 'spawn' (multiprocessing.get_context('spawn')), or before the fit."
        )
    from distributed import utils

    # Dask reads large messages in this thread; a forked process has the pool, but not its thread.
    pool: Any = utils._offload_executor
    try:
        pool.submit(os.getpid).result(_ANSWER_SECONDS)
    except concurrent.futures.TimeoutError:
        utils._offload_executor = type(pool)(max_workers=1, thread_name_prefix="Dask-Offload")


def check_event_loop(client: Any) -> None:
    """Check that the event loop of a client runs in this process.

    Raises
    ------
    ClusterError
    """
    answered = threading.Event()
    client.loop.add_callback(answered.set)
    if not answered.wait(_ANSWER_SECONDS):
        raise ClusterError(
            f"The client of {client.scheduler.address} does not answer in this process, which was forked after the "
            "client was created, or its event loop is blocked: create the client in the process that uses it."
        )
