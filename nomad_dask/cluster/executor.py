"""A cluster as the stages see it: who is there, and tasks run there until all are done."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nomad_dask.backends import devices
from nomad_dask.cluster.tasks import run_task
from nomad_dask.cluster.watchdog import (
    ANSWER_SECONDS,
    LOOK_SECONDS,
    Watchdog,
    call_scheduler,
    no_workers_error,
    scheduler_lost_error,
    timeout,
)
from nomad_dask.errors import ClusterError, Interrupted, NomadError

# Processes that import RAPIDS and make a CUDA context start slowly.
GPU_START_SECONDS = 120
_TOPIC = "nomad-dask"


@dataclass(frozen=True)
class WorkerInfo:
    """One worker as the scheduler knows it."""

    address: str
    threads: int
    memory_bytes: int


def assign_shards(n_shards: int, workers: Sequence[WorkerInfo]) -> list[str]:
    """Return for each shard the address of a worker: where threads are most, but no more than the plan has for one."""
    most = -(-n_shards // len(workers))
    held = [0] * len(workers)
    homes = []
    for _ in range(n_shards):
        free = [w for w, shards in enumerate(held) if shards < most]
        home = min(free, key=lambda w: (held[w] + 1) / workers[w].threads)
        held[home] += 1
        homes.append(workers[home].address)
    return homes


class Cluster:
    """A client with its workers, seen by the stages.

    Parameters
    ----------
    client : distributed.Client
    in_process : bool
        Whether its workers are threads of this process.

    Attributes
    ----------
    device : {'cpu', 'gpu'}
        Where its workers compute.
    gpus : dict of str to Gpu
        The GPU of each worker that was there at the start, by address; none on CPUs.
    """

    def __init__(self, client: Any, in_process: bool) -> None:
        self.client = client
        self.in_process = in_process
        self.device = "cpu"
        self.gpus: dict[str, devices.Gpu] = {}
        self._had_workers = False

    def choose_device(self, device: str) -> None:
        """Ask every worker what it has, and settle where all of them compute.

        Raises
        ------
        ClusterError
            Workers lack a GPU that is wanted, or only some have one, or one does not answer.
        """
        if device == "cpu":
            return
        found = self.run_on_workers(devices.detect_worker_gpu, seconds=GPU_START_SECONDS)
        for answer in found.values():
            if isinstance(answer, Exception):
                raise answer
        self.device = devices.resolve_device(device, found)
        if self.device == "gpu":
            self.gpus = {address: what for address, what in found.items() if isinstance(what, devices.Gpu)}

    def gpu_bytes(self) -> int | None:
        """Return the free GPU memory that each worker can have; None on CPUs."""
        return devices.memory_share(self.gpus) if self.gpus else None

    def device_of(self, address: str) -> str:
        """Return what a worker computes on, for people."""
        return str(self.gpus.get(address, self.device.upper()))

    def workers(self) -> list[WorkerInfo]:
        """Return the workers there are now, in a fixed order.

        When there were some and all are gone, they are waited for: a nanny starts a new one for one that died.

        Raises
        ------
        ClusterError
            There are none, or the scheduler does not answer.
        """
        started = time.monotonic()
        while not (known := self._known()):
            waited = time.monotonic() - started
            if not self._had_workers:
                raise no_workers_error()
            if waited > timeout("lost-after"):
                raise no_workers_error(waited)
            time.sleep(0.1)
        self._had_workers = True
        return [
            WorkerInfo(address, w["nthreads"], int(w["memory_limit"] or _free_memory()))
            for address, w in sorted(known.items())
        ]

    def host_threads(self) -> int:
        """Return the threads of all workers of a host, of the one that has the fewest."""
        from distributed.comm.addressing import get_address_host

        threads: dict[str, int] = {}
        for worker in self.workers():
            host = get_address_host(worker.address)
            threads[host] = threads.get(host, 0) + worker.threads
        return min(threads.values())

    def _known(self) -> dict[str, Any]:
        # Asked directly: `Client.scheduler_info` gives what a refresh every two seconds may have emptied.
        try:
            return dict(call_scheduler(self.client, "identity", timeout("lost-after"), n_workers=-1)["workers"])
        except TimeoutError as error:
            raise scheduler_lost_error(self.client) from error

    def run_on_workers(self, function: Callable[..., Any], *args: Any, seconds: float | None = None) -> dict[str, Any]:
        """Run ``function(*args)`` once on every worker, beside its tasks, and return what came out by address.

        What it raises comes in place of its answer. `seconds` to wait are `nomad-dask.lost-after` unless given.

        Raises
        ------
        ClusterError
            Some worker does not answer in time.
        """
        seconds = timeout("lost-after") if seconds is None else seconds
        try:
            # `Client.run` has no timeout, and waits for a frozen worker for ever.
            arguments = {"on_error": "return", "callback_timeout": seconds}
            return dict(self.client.sync(self.client._run, function, *args, **arguments))
        except TimeoutError as error:
            beats = {address: w["last_seen"] for address, w in self._known().items()}
            latest = max(beats.values(), default=0.0)
            silent = [address for address, beat in sorted(beats.items()) if beat < latest - seconds / 2]
            raise ClusterError(
                f"Not all workers have answered within {seconds:.0f} s"
                f"{' (no sign of life of ' + ', '.join(silent) + ')' if silent else ''}: "
                "end those that are frozen or cut off, and run the same again."
            ) from error

    def broadcast_best_effort(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` on every worker that answers soon, to tidy up: what goes wrong is of no interest."""
        if self.client.status == "running":
            with suppress(OSError, ClusterError):  # of which a TimeoutError is one
                self.run_on_workers(function, *args, seconds=ANSWER_SECONDS)

    def run(
        self,
        task: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        advanced: Callable[[int, int], None] | None = None,
        workers: Sequence[str] | None = None,
    ) -> list[Any]:
        """Run ``task(*job)`` for every job on the workers and return the results in the order of the jobs.

        Tasks of a worker that goes away run again elsewhere. It never waits for what will not come: see
        `nomad_dask.cluster.watchdog`.

        Parameters
        ----------
        task : callable
            A module-level function; run under a lock, one at a time in a process.
        jobs : sequence of tuple
        advanced : callable, optional
            Told ``(job number, units done)`` as tasks report with `report`, in this thread.
        workers : sequence of str, optional
            The worker to prefer for each job; another one takes it when that one is gone. By default any; a lone
            job prefers the one where lone jobs ran before, which has loaded what they need.

        Raises
        ------
        ClusterError
            The scheduler or all workers are gone, or they show no sign of life.
        Interrupted
            By Ctrl-C. Tasks that run stop when they next report.
        """
        if workers is None and len(jobs) == 1:
            workers = [max(self.workers(), key=lambda worker: worker.threads).address]
        inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        topic = f"{_TOPIC}-{uuid.uuid4().hex}"
        channel = topic if advanced is not None else None
        futures: dict[int, Any] = {}
        results: dict[int, Any] = {}
        awaited: dict[str, int] = {}  # key to job

        def submit(number: int, **where: Any) -> None:
            future = self.client.submit(run_task, task, jobs[number], channel, number, pure=False, **where)
            futures[number], awaited[future.key] = future, number
            future.add_done_callback(lambda f: inbox.put(("done", f)))

        try:
            if advanced is not None:
                self.client.subscribe_topic(topic, lambda event: inbox.put(("progress", event[1])))
            for number in range(len(jobs)):
                where = {"workers": [workers[number]], "allow_other_workers": True} if workers else {}
                submit(number, **where)
            watch = Watchdog(self.client, awaited)
            while awaited:
                try:
                    kind, what = inbox.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    kind = "nothing"
                if kind == "progress" and advanced is not None:
                    advanced(*what)
                elif kind == "done" and what.key in awaited:
                    try:
                        results[awaited[what.key]] = self._result(what, watch)
                        del awaited[what.key]
                    except _RunsAgain:
                        what.add_done_callback(lambda f: inbox.put(("done", f)))
                watch.look()
                # Dask never runs a task with a preferred worker that found no worker at all when it was to run.
                for key in watch.stranded() if workers else ():
                    number = awaited.pop(key)
                    self._drop([futures[number]])
                    submit(number)
        except KeyboardInterrupt as stop:
            self._drop(list(futures.values()))
            raise Interrupted("Stopped.") from stop
        except BaseException:
            self._drop(list(futures.values()))
            raise
        finally:
            if advanced is not None and self.client.status == "running":
                self.client.unsubscribe_topic(topic)
        return [results[number] for number in range(len(jobs))]

    def _result(self, future: Any, watch: Watchdog) -> Any:
        """Return the result of a task that is done.

        Raises
        ------
        _RunsAgain
            Its worker is gone with it.
        """
        from concurrent.futures import CancelledError

        patience = LOOK_SECONDS
        while True:
            if future.status in ("error", "cancelled"):
                raise self._error_of(future)
            try:
                return future.result(timeout=patience)
            except CancelledError as error:
                raise self._error_of(future) from error
            except TimeoutError as error:
                watch.look()
                # Waiting here would be for ever: the new run may find no worker, which only `run` can mend.
                if future.status in ("pending", "lost"):
                    raise _RunsAgain from error
                patience *= 2  # each try begins its transfer anew

    def _error_of(self, future: Any) -> BaseException:
        from distributed import KilledWorker

        error = future.exception() if future.status == "error" else None
        if isinstance(error, NomadError):
            return error
        if error is None:
            if self.client.status != "running":
                return scheduler_lost_error(self.client)
            return ClusterError(f"A task was {future.status}: was the cluster closed? Start it and run the same again.")
        if isinstance(error, KilledWorker):
            failure: NomadError = ClusterError(
                f"{error.allowed_failures + 1} workers died one after another in the same task, the last was "
                f"{error.last_worker.address}: often the system ends a process that takes too much memory. "
                "Give workers more memory, or use more shards, and run the same again."
            )
        else:
            failure = NomadError(f"A task failed on its worker with {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure

    def _drop(self, futures: list[Any]) -> None:
        """Let the scheduler forget tasks. Those that run see it when they report."""
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)


class _RunsAgain(Exception):  # noqa: N818 - nothing is wrong
    """A result was lost with its worker before it was fetched, and Dask runs its task again."""


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
