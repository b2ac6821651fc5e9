"""How a task runs on its worker: one at a time per process, with progress reports, and stopped when abandoned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from nomad_dask.backends.base import Backend
from nomad_dask.backends.select import BackendCache
from nomad_dask.cluster.worker_state import get_worker_state
from nomad_dask.errors import Interrupted

_PROGRESS_SECONDS = 0.25


@dataclass
class TaskRun:
    """A task that runs on a worker.

    Attributes
    ----------
    worker : distributed.Worker
    key : str or tuple
        Dask's name of the task.
    topic : str or None
        Topic of the scheduler's events for progress; None if there is no subscriber.
    job_number : int
        Sent with every report.
    last_report : float
        Time of the last report in seconds, by the monotonic clock.
    """

    worker: Any
    key: Any
    topic: str | None
    job_number: int
    last_report: float = 0.0

    def report(self, units_done: int) -> None:
        """Send the progress to the driver, unless the last report was sent just now.

        Raises
        ------
        Interrupted
            The driver has abandoned the task.
        """
        self.check_abandoned()
        now = time.monotonic()
        if self.topic is not None and now - self.last_report >= _PROGRESS_SECONDS:
            self.last_report = now
            self.worker.log_event(self.topic, (self.job_number, units_done))

    def check_abandoned(self) -> None:
        """Raise if the scheduler has released the task: it informs the worker, but not the thread of the task.

        Raises
        ------
        Interrupted
        """
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled":
            raise Interrupted("Stopped.")


_running_task: ContextVar[TaskRun | None] = ContextVar("nomad_dask_task", default=None)


def run_task(task: Callable[..., Any], job: tuple[Any, ...], topic: str | None, job_number: int) -> Any:
    """Run a task on this worker.

    Parameters
    ----------
    task : callable
    job : tuple
        Arguments of the task.
    topic : str or None
        Topic of the scheduler's events on which the task reports its progress; None if there is no subscriber.
    job_number : int
        Sent with every report.
    """
    from distributed import get_worker

    worker = get_worker()
    run = TaskRun(worker, worker.get_current_task(), topic, job_number)
    token = _running_task.set(run)
    try:
        with get_worker_state(worker).task_lock:
            run.check_abandoned()
            return task(*job)
    finally:
        _running_task.reset(token)


def report_progress(units_done: int) -> None:
    """Report the progress of the running task to the driver; does nothing outside a task.

    Raises
    ------
    Interrupted
        The driver has abandoned the task: it was interrupted, it failed, or its process is gone.
    """
    run = _running_task.get()
    if run is not None:
        run.report(units_done)


@contextmanager
def release_task_lock() -> Iterator[None]:
    """Let another task of this process run while the calling task waits for tasks on other workers."""
    lock = get_worker_state().task_lock
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


@contextmanager
def worker_backend(device: str, idle_host_threads: int = 0) -> Iterator[Backend]:
    """Yield the backend of this worker for a device, with all threads that the task may use.

    Parameters
    ----------
    device : {'cpu', 'gpu'}
    idle_host_threads : int
        See `worker_threads`.

    Raises
    ------
    ClusterError
        There is no GPU.
    """
    with get_worker_state().get(BackendCache).use(device, worker_threads(idle_host_threads)) as backend:
        yield backend


def worker_threads(idle_host_threads: int = 0) -> int:
    """Return the number of threads that a task of this worker may use.

    Parameters
    ----------
    idle_host_threads : int
        Threads of the whole host, where its other workers are idle during the task.
    """
    from distributed import get_worker

    return max(idle_host_threads, int(get_worker().state.nthreads))
