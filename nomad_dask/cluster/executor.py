"""The cluster as the stages use it: its workers, and tasks that run on them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nomad_dask.backends import devices
from nomad_dask.cluster.settings import timeout
from nomad_dask.cluster.task_batch import TaskBatch
from nomad_dask.cluster.tasks import run_task
from nomad_dask.cluster.watchdog import ANSWER_SECONDS, call_scheduler, no_workers_error, scheduler_lost_error
from nomad_dask.errors import ClusterError

_LOG = logging.getLogger("nomad_dask")
# Processes that import RAPIDS and create a CUDA context start slowly.
GPU_START_SECONDS = 120
# Workers that die this often, one after another, while all are asked something.
_MAX_LOSSES = 4


@dataclass(frozen=True)
class WorkerInfo:
    """A worker, as the scheduler describes it."""

    address: str
    threads: int
    memory_bytes: int


def assign_shards(n_shards: int, workers: Sequence[WorkerInfo]) -> list[str]:
    """Return the address of a worker for each shard.

    Workers with more threads get more shards, but none more than an even distribution needs, which the plan allows.
    """
    max_shards = -(-n_shards // len(workers))
    counts = [0] * len(workers)
    addresses = []
    for _ in range(n_shards):
        available = [w for w, count in enumerate(counts) if count < max_shards]
        chosen = min(available, key=lambda w: (counts[w] + 1) / workers[w].threads)
        counts[chosen] += 1
        addresses.append(workers[chosen].address)
    return addresses


class Cluster:
    """A client and its workers, as the stages use them.

    Parameters
    ----------
    client : distributed.Client
    in_process : bool
        Whether its workers are threads of this process.

    Attributes
    ----------
    device : {'cpu', 'gpu'}
        What its workers compute on.
    choice : str
        A line about it for logs, and what decided it; empty for CPUs as requested.
    gpus : dict of str to Gpu
        The GPU of each worker that was present at the start, by address; empty on CPUs.
    """

    def __init__(self, client: Any, in_process: bool) -> None:
        self.client = client
        self.in_process = in_process
        self.device = "cpu"
        self.choice = ""
        self.gpus: dict[str, devices.Gpu] = {}
        self._had_workers = False

    def choose_device(self, device: str) -> None:
        """Detect the GPU of every worker, and choose the device for all of them.

        Raises
        ------
        ClusterError
            Workers lack the requested GPU, only some have one, or one does not answer.
        """
        if device == "cpu":
            return
        detected = self.run_on_workers(devices.detect_worker_gpu, seconds=GPU_START_SECONDS)
        for answer in detected.values():
            if isinstance(answer, Exception):
                raise answer
        self.device = devices.resolve_device(device, detected)
        self.choice = devices.describe_choice(self.device, detected)
        _LOG.info("device=%r computes on %s", device, self.choice)
        if self.device == "gpu":
            self.gpus = {address: gpu for address, gpu in detected.items() if isinstance(gpu, devices.Gpu)}

    def gpu_bytes(self) -> int | None:
        """Return the free GPU memory available to each worker; None on CPUs."""
        return devices.memory_share(self.gpus) if self.gpus else None

    def device_of(self, address: str) -> str:
        """Return a description of the device of a worker."""
        return str(self.gpus.get(address, self.device.upper()))

    def workers(self) -> list[WorkerInfo]:
        """Return the current workers, sorted by address.

        If there were workers before and all are lost, it waits until a nanny has started another. A cluster that
        adapts may have none at first.

        Raises
        ------
        ClusterError
            There are none, or the scheduler does not answer.
        """
        started = time.monotonic()
        requested = None
        while not (workers := self._query_workers()):
            waited = time.monotonic() - started
            if not self._had_workers and not self._is_adaptive():
                raise no_workers_error()
            if waited > timeout("lost-after"):
                raise no_workers_error(waited)
            if requested is None:  # an adaptive cluster starts workers for tasks only
                requested = self.client.submit(os.getpid, pure=False)
            time.sleep(0.1)
        self._had_workers = True
        return [
            WorkerInfo(address, w["nthreads"], int(w["memory_limit"] or _free_memory()))
            for address, w in sorted(workers.items())
        ]

    def _is_adaptive(self) -> bool:
        """Return whether the client has a cluster object that starts workers when there are tasks."""
        return getattr(self.client.cluster, "_adaptive", None) is not None

    def host_threads(self) -> int:
        """Return the number of threads of all workers of a host, for the host with the fewest."""
        from distributed.comm.addressing import get_address_host

        threads: dict[str, int] = {}
        for worker in self.workers():
            host = get_address_host(worker.address)
            threads[host] = threads.get(host, 0) + worker.threads
        return min(threads.values())

    def _query_workers(self) -> dict[str, Any]:
        # Not from `Client.scheduler_info`, which may be empty while the client refreshes it every two seconds.
        try:
            return dict(call_scheduler(self.client, "identity", timeout("lost-after"), n_workers=-1)["workers"])
        except TimeoutError as error:
            raise scheduler_lost_error(self.client) from error

    def run_on_workers(self, function: Callable[..., Any], *args: Any, seconds: float | None = None) -> dict[str, Any]:
        """Run ``function(*args)`` once on every worker, beside its tasks, and return the results by address.

        An exception of a worker takes the place of its result. Workers that die meanwhile are left out, and those that
        take their place are asked too. `seconds` is how long to wait, by default `nomad-dask.lost-after`.

        Raises
        ------
        ClusterError
            A worker does not answer in time, or workers die again and again.
        """
        seconds = timeout("lost-after") if seconds is None else seconds
        deadline = time.monotonic() + seconds
        answers: dict[str, Any] = {}
        for _ in range(_MAX_LOSSES):
            answers, lost = self._ask_workers(function, args, seconds)
            if not lost:
                return answers
            while lost & (present := {worker.address for worker in self.workers()}) and time.monotonic() < deadline:
                time.sleep(0.1)
            if present <= answers.keys():
                return answers
        raise ClusterError(
            f"Workers die before they answer, the last was {max(lost)}: often the system, or Dask, ends a process that "
            "takes too much memory. Give workers more memory (dask worker --memory-limit), and run the same again."
        )

    def _ask_workers(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float
    ) -> tuple[dict[str, Any], set[str]]:
        """Return the answers of all workers, and the addresses of those whose connection broke."""
        from distributed.comm.core import CommClosedError

        asked = {worker.address for worker in self.workers()}
        try:
            # `Client.run` has no timeout, and waits for a frozen worker without end.
            arguments = {"on_error": "return", "callback_timeout": seconds}
            answers = dict(self.client.sync(self.client._run, function, *args, **arguments))
        except TimeoutError as error:
            raise self._silent_workers_error(seconds) from error
        except CommClosedError:
            return {}, asked
        lost = {address for address, answer in answers.items() if isinstance(answer, CommClosedError)}
        return {address: answer for address, answer in answers.items() if address not in lost}, lost

    def _silent_workers_error(self, seconds: float) -> ClusterError:
        last_seen = {address: w["last_seen"] for address, w in self._query_workers().items()}
        limit = max(last_seen.values(), default=0.0) - seconds / 2
        silent = [address for address, seen in sorted(last_seen.items()) if seen < limit]
        return ClusterError(
            f"Not all workers have answered within {seconds:.0f} s"
            f"{' (no sign of life of ' + ', '.join(silent) + ')' if silent else ''}: "
            "end those that are frozen or cut off, and run the same again."
        )

    def has_gpu_for_each(self) -> bool:
        """Return whether there are several workers, and each has a GPU of its own."""
        addresses = {worker.address for worker in self.workers()}
        uuids = {gpu.uuid for address, gpu in self.gpus.items() if address in addresses}
        return len(uuids) == len(addresses) > 1

    def submit(self, task: Callable[..., Any], job: tuple[Any, ...], address: str) -> Any:
        """Start ``task(*job)`` on a worker, and return a future of the result, which stays there."""
        return self.client.submit(run_task, task, job, None, 0, pure=False, workers=[address])

    def restart_workers(self) -> None:
        """Restart all workers, and cancel what this client runs on them: some may wait for others without end.

        Raises
        ------
        ClusterError
            They have no nannies that could restart them, or it takes too long.
        """
        from distributed import Future

        addresses = [worker.address for worker in self.workers()]
        running = {key for keys in self.client.processing(addresses).values() for key in keys}
        own = running & set(self.client.futures)
        self.client.cancel([Future(key, self.client) for key in own], force=True)
        try:
            self.client.restart_workers(addresses, timeout=GPU_START_SECONDS)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise ClusterError(
                f"Workers wait for others without end, and cannot be restarted ({type(error).__name__}: {error}): end "
                "them by hand, start others with nannies (dask cuda worker), and run the same again."
            ) from error

    def broadcast_best_effort(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` on every worker that answers soon, to clean up; errors are ignored."""
        if self.client.status == "running":
            with suppress(OSError, ClusterError):  # a TimeoutError is an OSError
                self.run_on_workers(function, *args, seconds=ANSWER_SECONDS)

    def run(
        self,
        task: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        on_progress: Callable[[int, int], None] | None = None,
        workers: Sequence[str] | None = None,
    ) -> list[Any]:
        """Run ``task(*job)`` for every job on the workers and return the results in the order of the jobs.

        Tasks of a lost worker run again on another one. No wait is without end: see `nomad_dask.cluster.watchdog`.

        Parameters
        ----------
        task : callable
            A module-level function. The tasks of one process run one at a time.
        jobs : sequence of tuple
        on_progress : callable, optional
            Called in this thread with ``(job number, units done)`` as tasks call `report_progress`.
        workers : sequence of str, optional
            Address of the worker of each job; another one runs it if that one is lost. By default any; a single job
            is run by the worker that ran single jobs before, which has loaded the modules they need.

        Raises
        ------
        ClusterError
            The scheduler or all workers are lost, or they show no sign of life.
        Interrupted
            By Ctrl-C. Running tasks stop when they next report their progress.
        """
        if workers is None and len(jobs) == 1:
            workers = [max(self.workers(), key=lambda worker: worker.threads).address]
        return TaskBatch(self.client, task, jobs, on_progress, workers).run()


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
