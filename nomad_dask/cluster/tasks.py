"""What runs in the workers around a task: one at a time, reporting, and stopping when nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nomad_dask.errors import Interrupted

_PROGRESS_SECONDS = 0.25

# One task of ours at a time in a process, with all its threads: as on a GPU, and never more threads than cores.
_slot = threading.Lock()
_reporter = threading.local()


def run_task(task: Callable[..., Any], job: tuple[Any, ...], topic: str | None, number: int) -> Any:
    """Run a task on this worker, and let it report on a topic.

    Parameters
    ----------
    task : callable
    job : tuple
        Its arguments.
    topic : str or None
        Of the scheduler's events; None for a task that nobody listens to.
    number : int
        Of the job, for the listener.
    """
    from distributed import get_worker

    _reporter.topic, _reporter.number, _reporter.last = topic, number, 0.0
    _reporter.key = get_worker().get_current_task()
    try:
        with _slot:
            _stop_if_dropped()
            return task(*job)
    finally:
        _reporter.key = None


def report_progress(units_done: int) -> None:
    """Tell the driver how far the running task is; dropped when it was told just now.

    Raises
    ------
    Interrupted
        The driver waits for the task no more: it was interrupted, it failed, or its process is gone.
    """
    if getattr(_reporter, "key", None) is None:
        return
    _stop_if_dropped()
    now = time.monotonic()
    if _reporter.topic is None or now - _reporter.last < _PROGRESS_SECONDS:
        return
    from distributed import get_worker

    _reporter.last = now
    get_worker().log_event(_reporter.topic, (_reporter.number, units_done))


def _stop_if_dropped() -> None:
    """Raise when the scheduler has dropped the running task, which it tells the worker but not the task's thread."""
    from distributed import get_worker

    known = get_worker().state.tasks.get(_reporter.key)
    if known is None or known.state == "cancelled":
        raise Interrupted("Stopped.")


@contextmanager
def release_slot() -> Iterator[None]:
    """Let another task of this process run while the one that calls waits for tasks on other workers."""
    _slot.release()
    try:
        yield
    finally:
        _slot.acquire()


def worker_threads(of_host: int = 0) -> int:
    """Return the threads of the worker this task runs on, or `of_host` where its neighbours are idle meanwhile."""
    from distributed import get_worker

    return max(of_host, int(get_worker().state.nthreads))
