"""Signs of life: what tells a long task from one that will never end, within stated bounds.

A task may be silent for as long as it likes while its worker's heartbeat lives. Bounds, in seconds, are read from
Dask's configuration, or the environment (``DASK_NOMAD_DASK__LOST_AFTER=120``):

``nomad-dask.lost-after`` (60)
    How long there may be no worker at all, or no answer of the scheduler, before the run ends with an error.
    A nanny starts a new worker in the meantime.
``nomad-dask.frozen-after`` (300)
    How long a worker with our tasks may show no heartbeat before the scheduler is asked to end it, so that its
    tasks move to others; and how long all workers may be paused for want of memory.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any

from nomad_dask.errors import ClusterError

ANSWER_SECONDS = 10
LOOK_SECONDS = 1.0
_DEFAULTS = {"lost-after": 60.0, "frozen-after": 300.0}
# Of a nanny, to end its worker; it kills one that does not end by itself.
_END_SECONDS = 30


def timeout(name: str) -> float:
    """Return one of the bounds in seconds."""
    import dask.config
    from dask.utils import parse_timedelta

    return float(parse_timedelta(dask.config.get(f"nomad-dask.{name}", _DEFAULTS[name])))


def call_scheduler(client: Any, what: str, seconds: float = ANSWER_SECONDS, **arguments: Any) -> Any:
    """Ask the scheduler of a client and return its answer.

    Raises
    ------
    ClusterError
        The connection is closed.
    TimeoutError
        There is no answer in time.
    """
    if client.status != "running" or client.scheduler is None:
        raise scheduler_lost_error(client)
    try:
        return client.sync(getattr(client.scheduler, what), callback_timeout=seconds, **arguments)
    except OSError as error:
        # Of them TimeoutError is one. The others mean a connection that broke, which Dask may be mending.
        if isinstance(error, TimeoutError):
            raise
        raise TimeoutError(str(error)) from error


def scheduler_lost_error(client: Any) -> ClusterError:
    """Return the error for a scheduler that has closed the connection."""
    address = client.scheduler.address if client.scheduler is not None else "of the cluster"
    return ClusterError(f"The scheduler {address} is gone: start it again, or give another, and run the same again.")


class Watchdog:
    """Watches a client's cluster while some tasks are awaited.

    Parameters
    ----------
    client : distributed.Client
    keys : collection of str
        Of the tasks that are awaited, kept up by the caller.
    """

    def __init__(self, client: Any, keys: Collection[str]) -> None:
        self.client, self.keys = client, keys
        self._looked = time.monotonic()
        self._unanswered = self._deserted = self._paused = 0.0
        # Of each worker: its last heartbeat by the scheduler's clock, and for how long it has been the last.
        self._heard: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._ended: set[str] = set()
        # Of our tasks, those that no worker had at the last look and the one before.
        self._nowhere: set[str] = set()
        self._stranded: set[str] = set()

    def look(self) -> None:
        """Look for signs of life, if the last look is not just past.

        Raises
        ------
        ClusterError
            The scheduler is gone or answers no more, there are no workers, or they do not work.
        """
        if self.client.status != "running":
            raise scheduler_lost_error(self.client)
        # Counted in looks: time in which this process was itself asleep says nothing about others.
        passed = min(time.monotonic() - self._looked, 2 * ANSWER_SECONDS)
        if passed < LOOK_SECONDS:
            return
        try:
            workers = call_scheduler(self.client, "identity", n_workers=-1)["workers"]
            holders = call_scheduler(self.client, "processing", workers=None)
        except TimeoutError as error:
            self._unanswered += passed + ANSWER_SECONDS
            if self._unanswered > timeout("lost-after"):
                raise ClusterError(
                    f"The scheduler {self.client.scheduler.address} has not answered for {self._unanswered:.0f} s: "
                    "see that its process and the network work, and run the same again."
                ) from error
            return
        finally:
            self._looked = time.monotonic()
        self._unanswered = 0.0
        self._check_presence(workers, passed)
        self._check_heartbeats(workers, holders, passed)
        nowhere = set(self.keys).difference(*holders.values())
        self._stranded = nowhere & self._nowhere if self._works(workers) else set()
        self._nowhere = nowhere

    def stranded(self) -> set[str]:
        """Return the tasks that were with no worker for two looks although there are workers; each is told once."""
        stranded, self._stranded = self._stranded.intersection(self.keys), set()
        self._nowhere -= stranded
        return stranded

    @staticmethod
    def _works(workers: dict[str, Any]) -> bool:
        return any(w["status"] == "running" for w in workers.values())

    def _check_presence(self, workers: dict[str, Any], passed: float) -> None:
        self._deserted = 0.0 if workers else self._deserted + passed
        if self._deserted > timeout("lost-after"):
            raise no_workers_error(self._deserted)
        self._paused = 0.0 if not workers or self._works(workers) else self._paused + passed
        if self._paused > timeout("frozen-after"):
            states = ", ".join(sorted({w["status"] for w in workers.values()}))
            raise ClusterError(
                f"No worker has taken tasks for {self._paused:.0f} s, all are {states}: Dask pauses a worker that "
                "has used most of its memory. Give workers more memory, or restart them, and run the same again."
            )

    def _check_heartbeats(self, workers: dict[str, Any], holders: dict[str, Any], passed: float) -> None:
        for address, worker in workers.items():
            beats = self._heard.get(address) != worker["last_seen"]
            self._heard[address] = worker["last_seen"]
            self._silent[address] = 0.0 if beats else self._silent.get(address, 0.0) + passed
            ours = any(key in self.keys for key in holders.get(address, ()))
            if ours and self._silent[address] > timeout("frozen-after"):
                self._end(address)

    def _end(self, address: str) -> None:
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


def no_workers_error(waited: float = 0.0) -> ClusterError:
    """Return the error for a cluster without workers."""
    since = f"has had no workers for {waited:.0f} s" if waited else "has no workers"
    again = ", and run the same again" if waited else ""
    return ClusterError(
        f"The Dask cluster {since}: start some (dask worker ADDRESS), or give another scheduler{again}."
    )
