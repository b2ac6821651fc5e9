"""Epochs of a joint layout on a worker, watched so that the loss of another worker does not let it wait without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Self

from nomad_dask.backends.data import EpochResult
from nomad_dask.backends.joint import CommunicatorError
from nomad_dask.cluster.p2p import PeerExchange
from nomad_dask.cluster.tasks import release_task_lock
from nomad_dask.cluster.time_limit import TimeLimit, TimeLimitError
from nomad_dask.layout.joining import Group
from nomad_dask.layout.schedule import Schedule

_POLL_SECONDS = 0.5


class JointEpochsFailed(Exception):  # noqa: N818 - not an error of the run, which goes on from the last checkpoint
    """The workers cannot communicate, though none of them is lost."""


class _Guard:
    """Watches the operations of a group from a thread, and ends them if they cannot finish.

    Parameters
    ----------
    group : Group
    check : callable
        Raises `ExchangeAborted` if another worker is lost, and `Interrupted` if the task was abandoned.
    limit : TimeLimit
        How long an epoch may take.
    """

    def __init__(self, group: Group, check: Callable[[], None], limit: TimeLimit) -> None:
        self._group, self._check, self._limit = group, check, limit
        self._last_epoch = time.monotonic()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        # In a copy of the context, by which a task reports its progress.
        self._thread = threading.Thread(target=copy_context().run, args=(self._watch,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.raise_failure()

    def epoch_done(self) -> None:
        """Let the time of the next epoch begin."""
        self._last_epoch = time.monotonic()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise why operations were ended, if they were: their results are undefined."""
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            try:
                self._check()
                self._group.communicator.check()
                if time.monotonic() - self._last_epoch > self._limit.seconds:
                    raise self._limit.error()
            except Exception as failure:  # noqa: BLE001 - raised where the task waits
                self._failure = failure
                self._group.communicator.abort()
                return


def run_joint_epochs(
    group: Group, schedule: Schedule, start: int, stop: int, peers: PeerExchange, limit: TimeLimit
) -> tuple[list[list[EpochResult]], int]:
    """Run the epochs from `start` to `stop` of a worker's shards, in step with the other workers.

    Returns
    -------
    results : list of list of EpochResult
        Of each shard by epoch.
    exchanged_bytes : int
        In each epoch.

    Raises
    ------
    ExchangeAborted
        A worker is lost.
    JointEpochsFailed
        Operations of the group have failed, or take too long.
    Interrupted
        The driver has abandoned the task.
    """
    layout = group.layout
    assert layout is not None  # noqa: S101 - the caller has the shards from it
    results: list[list[EpochResult]] = [[] for _ in layout.shards]
    epoch = start
    try:
        with _Guard(group, lambda: peers.check(epoch), limit) as guard:
            for epoch in range(start, stop):
                step = schedule.at(epoch)
                layout.start_epoch(step)
                with release_task_lock():
                    of_epoch = layout.finish_epoch(step)
                guard.epoch_done()
                for of_shard, result in zip(results, of_epoch, strict=True):
                    of_shard.append(result)
                group.last_used = time.monotonic()
    except (CommunicatorError, TimeLimitError) as error:
        raise JointEpochsFailed(str(error)) from error
    return results, layout.exchanged_bytes
