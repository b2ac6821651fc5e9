"""Tasks that run at the same time on the workers: submitted, watched, submitted again if stranded, and collected."""

from __future__ import annotations

import queue
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nomad_dask.cluster.tasks import run_task
from nomad_dask.cluster.watchdog import POLL_SECONDS, Watchdog, scheduler_lost_error
from nomad_dask.errors import ClusterError, Interrupted, NomadError

# Whatever the scheduler's setting: a batch may have lost several workers for reasons outside of it.
_ALLOWED_DEATHS = 3


class TaskBatch:
    """One task per job, on the workers of a client.

    Parameters
    ----------
    client : distributed.Client
    task : callable
        A module-level function.
    jobs : sequence of tuple
        Arguments of each call.
    on_progress : callable, optional
        Called in this thread with ``(job number, units done)`` as tasks report their progress.
    workers : sequence of str, optional
        Address of the worker of each job; another one runs it if that one is lost.
    """

    def __init__(
        self,
        client: Any,
        task: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        on_progress: Callable[[int, int], None] | None = None,
        workers: Sequence[str] | None = None,
    ) -> None:
        self.client, self.task, self.jobs = client, task, jobs
        self.on_progress, self.workers = on_progress, workers
        self._topic = None if on_progress is None else f"nomad-dask-{uuid.uuid4().hex}"
        # Done futures and progress reports, which Dask delivers in threads of its own.
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._futures: dict[int, Any] = {}
        self._results: dict[int, Any] = {}
        # The job of each task that is not done, by the key of the task.
        self._pending: dict[str, int] = {}
        # Workers that died in each job.
        self._n_deaths: Counter[int] = Counter()
        self._watchdog: Watchdog

    def run(self) -> list[Any]:
        """Run all tasks and return their results in the order of the jobs.

        Raises
        ------
        ClusterError
            The scheduler or all workers are lost, or they show no sign of life.
        Interrupted
            By Ctrl-C. Running tasks stop when they next report their progress.
        """
        try:
            self._subscribe()
            for number in range(len(self.jobs)):
                self._submit(number, self.workers)
            self._watchdog = Watchdog(self.client, self._pending)
            while self._pending:
                self._handle_message()
                self._watchdog.poll()
                self._resubmit_stranded()
        except KeyboardInterrupt as interrupt:
            self._cancel(list(self._futures.values()))
            raise Interrupted("Stopped.") from interrupt
        except BaseException:
            self._cancel(list(self._futures.values()))
            raise
        finally:
            self._unsubscribe()
        return [self._results[number] for number in range(len(self.jobs))]

    def _subscribe(self) -> None:
        if self._topic is not None:
            self.client.subscribe_topic(self._topic, lambda event: self._messages.put(("progress", event[1])))

    def _unsubscribe(self) -> None:
        if self._topic is not None and self.client.status == "running":
            self.client.unsubscribe_topic(self._topic)

    def _submit(self, number: int, workers: Sequence[str] | None = None) -> None:
        # Others are not allowed: an idle worker would steal the task from one that is slow to start.
        restriction = {"workers": [workers[number]]} if workers else {}
        future = self.client.submit(
            run_task, self.task, self.jobs[number], self._topic, number, pure=False, **restriction
        )
        self._futures[number], self._pending[future.key] = future, number
        future.add_done_callback(self._on_done)

    def _on_done(self, future: Any) -> None:
        self._messages.put(("done", future))

    def _handle_message(self) -> None:
        """Wait a moment for a message, and pass a report on or collect a result."""
        try:
            kind, content = self._messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        if kind == "progress" and self.on_progress is not None:
            self.on_progress(*content)
        elif kind == "done" and content.key in self._pending:
            self._collect(content)

    def _collect(self, future: Any) -> None:
        try:
            self._results[self._pending[future.key]] = self._fetch_result(future)
            del self._pending[future.key]
        except _TaskRescheduled:
            future.add_done_callback(self._on_done)
        except _WorkerDied:
            self._submit(self._pending.pop(future.key))

    def _resubmit_stranded(self) -> None:
        """Submit tasks of lost workers again, for any worker: Dask would wait for one with the same address."""
        if self.workers is None:
            return
        for key in self._watchdog.take_stranded():
            number = self._pending.pop(key)
            self._cancel([self._futures[number]])
            self._submit(number)

    def _fetch_result(self, future: Any) -> Any:
        """Return the result of a task that is done.

        Raises
        ------
        _TaskRescheduled
            The result was lost with its worker.
        _WorkerDied
            The scheduler gave the task up after fewer deaths than this batch allows.
        """
        from concurrent.futures import CancelledError

        seconds = POLL_SECONDS
        while True:
            if future.status in ("error", "cancelled"):
                raise self._task_error(future)
            try:
                return future.result(timeout=seconds)
            except CancelledError as error:
                raise self._task_error(future) from error
            except TimeoutError as error:
                self._watchdog.poll()
                # The new run of the task may find no worker, which only the loop of `run` can repair.
                if future.status in ("pending", "lost"):
                    raise _TaskRescheduled from error
                seconds *= 2  # every attempt starts the transfer from the beginning

    def _task_error(self, future: Any) -> BaseException:
        """Return the error to raise for a task that failed or was cancelled."""
        from distributed import KilledWorker

        error = future.exception() if future.status == "error" else None
        if isinstance(error, NomadError):
            return error
        if error is None:
            if self.client.status != "running":
                return scheduler_lost_error(self.client)
            return ClusterError(f"A task was {future.status}: was the cluster closed? Start it and run the same again.")
        if isinstance(error, KilledWorker):
            number = self._pending[future.key]
            self._n_deaths[number] += error.allowed_failures + 1
            if self._n_deaths[number] <= _ALLOWED_DEATHS:
                return _WorkerDied()
            failure: NomadError = ClusterError(
                f"{self._n_deaths[number]} workers died one after another in the same task, the last was "
                f"{error.last_worker.address}: often the system ends a process that takes too much memory. "
                "Give workers more memory, or use more shards, and run the same again."
            )
        else:
            failure = NomadError(f"A task failed on its worker with {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure

    def _cancel(self, futures: list[Any]) -> None:
        """Make the scheduler release tasks. Running ones find out when they report their progress."""
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)


class _TaskRescheduled(Exception):  # noqa: N818 - not an error
    """A result was lost with its worker before it was fetched, and Dask runs its task again."""


class _WorkerDied(Exception):  # noqa: N818 - not an error
    """A worker died in a task, which may run again."""
