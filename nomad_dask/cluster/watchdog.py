"""Detection of workers and schedulers that will never answer, within the time limits of `nomad_dask.cluster.settings`.

A task may take any time while its worker sends heartbeats.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any

from nomad_dask.cluster.settings import timeout
from nomad_dask.errors import ClusterError

ANSWER_SECONDS = 10
POLL_SECONDS = 1.0
# Time a nanny has to end its worker; it kills one that does not end by itself.
_END_SECONDS = 30


def call_scheduler(client: Any, operation: str, seconds: float = ANSWER_SECONDS, **arguments: Any) -> Any:
    """Call an operation of a client's scheduler and return its answer.

    Raises
    ------
    ClusterError
        The connection is closed.
    TimeoutError
        There is no answer in time, or the connection broke and Dask may be restoring it.
    """
    if client.status != "running" or client.scheduler is None:
        raise scheduler_lost_error(client)
    try:
        return client.sync(getattr(client.scheduler, operation), callback_timeout=seconds, **arguments)
    except TimeoutError:
        raise
    except OSError as error:
        raise TimeoutError(str(error)) from error


def scheduler_lost_error(client: Any) -> ClusterError:
    """Return the error for a scheduler that has closed the connection."""
    address = client.scheduler.address if client.scheduler is not None else "of the cluster"
    return ClusterError(f"The scheduler {address} is gone: start it again, or give another, and run the same again.")


def no_workers_error(waited: float = 0.0) -> ClusterError:
    """Return the error for a cluster without workers."""
    since = f"has had no workers for {waited:.0f} s" if waited else "has no workers"
    run_again = ", and run the same again" if waited else ""
    return ClusterError(
        f"The Dask cluster {since}: start some (dask worker ADDRESS), or give another scheduler{run_again}."
    )


class Watchdog:
    """Checks a client's cluster while tasks are pending.

    Parameters
    ----------
    client : distributed.Client
    keys : collection of str
        Keys of the pending tasks; the caller keeps it up to date.
    """

    def __init__(self, client: Any, keys: Collection[str]) -> None:
        self.client, self.keys = client, keys
        self._last_poll = time.monotonic()
        # Seconds without an answer of the scheduler, without any worker, and with all workers paused.
        self._unanswered = self._deserted = self._paused = 0.0
        # For each worker: its last heartbeat by the scheduler's clock, and the seconds since it changed.
        self._last_seen: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._ended: set[str] = set()
        # Pending tasks that no worker had at the last poll, and those that also had none at the poll before.
        self._unassigned: set[str] = set()
        self._stranded: set[str] = set()

    def poll(self) -> None:
        """Check the scheduler and the workers, at most once in `POLL_SECONDS`.

        Raises
        ------
        ClusterError
            The scheduler is lost or does not answer, there are no workers, or they do not work.
        """
        if self.client.status != "running":
            raise scheduler_lost_error(self.client)
        # Limited, because time in which this process itself was suspended says nothing about the others.
        elapsed = min(time.monotonic() - self._last_poll, 2 * ANSWER_SECONDS)
        if elapsed < POLL_SECONDS:
            return
        try:
            workers = call_scheduler(self.client, "identity", n_workers=-1)["workers"]
            processing = call_scheduler(self.client, "processing", workers=None)
        except TimeoutError as error:
            self._unanswered += elapsed + ANSWER_SECONDS
            if self._unanswered > timeout("lost-after"):
                raise ClusterError(
                    f"The scheduler {self.client.scheduler.address} has not answered for {self._unanswered:.0f} s: "
                    "check that its process and the network work, and run the same again."
                ) from error
            return
        finally:
            self._last_poll = time.monotonic()
        self._unanswered = 0.0
        self._check_presence(workers, elapsed)
        self._check_heartbeats(workers, processing, elapsed)
        unassigned = set(self.keys).difference(*processing.values())
        self._stranded = unassigned & self._unassigned if _any_running(workers) else set()
        self._unassigned = unassigned

    def take_stranded(self) -> set[str]:
        """Return the tasks that no worker had for two polls although workers are running, each task once."""
        stranded, self._stranded = self._stranded.intersection(self.keys), set()
        self._unassigned -= stranded
        return stranded

    def _check_presence(self, workers: dict[str, Any], elapsed: float) -> None:
        self._deserted = 0.0 if workers else self._deserted + elapsed
        if self._deserted > timeout("lost-after"):
            raise no_workers_error(self._deserted)
        self._paused = 0.0 if not workers or _any_running(workers) else self._paused + elapsed
        if self._paused > timeout("frozen-after"):
            states = ", ".join(sorted({w["status"] for w in workers.values()}))
            raise ClusterError(
                f"No worker has taken tasks for {self._paused:.0f} s, all are {states}: Dask pauses a worker that "
                "has used most of its memory. Give workers more memory, or restart them, and run the same again."
            )

    def _check_heartbeats(self, workers: dict[str, Any], processing: dict[str, Any], elapsed: float) -> None:
        for address, worker in workers.items():
            unchanged = self._last_seen.get(address) == worker["last_seen"]
            self._last_seen[address] = worker["last_seen"]
            self._silent[address] = self._silent.get(address, 0.0) + elapsed if unchanged else 0.0
            has_our_tasks = any(key in self.keys for key in processing.get(address, ()))
            if has_our_tasks and self._silent[address] > timeout("frozen-after"):
                self._end_worker(address)

    def _end_worker(self, address: str) -> None:
        """Have a frozen worker ended, as the scheduler itself does after its `worker-ttl`, so that its tasks move."""
        silent, self._silent[address] = self._silent[address], 0.0
        try:
            if address in self._ended:
                raise TimeoutError
            self._ended.add(address)
            call_scheduler(
                self.client,
                "restart_workers",
                2 * _END_SECONDS,
                workers=[address],
                timeout=_END_SECONDS,
                wait_for_workers=False,
                on_error="return",
                stimulus_id=f"nomad-dask-frozen-{uuid.uuid4().hex}",
            )
        except TimeoutError as error:
            raise ClusterError(
                f"The worker {address} has shown no sign of life for {silent:.0f} s and cannot be ended: "
                "end it, or the scheduler, by hand and run the same again."
            ) from error


def _any_running(workers: dict[str, Any]) -> bool:
    return any(w["status"] == "running" for w in workers.values())
