"""Shards in the memory of their worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nomad_dask.backends.base import ShardLayout
from nomad_dask.backends.data import EpochResult, RemoteState
from nomad_dask.backends.joint import ShardPoints
from nomad_dask.layout.remote_charges import RemoteCharges
from nomad_dask.layout.schedule import Schedule
from nomad_dask.layout.shard_summary import ShardSummary, Summary


class Exchange(NamedTuple):
    """The summary of all shards after an epoch, and what it means for one shard."""

    epoch: int
    summary: Summary
    remote: RemoteState


@dataclass
class LoadedShard:
    """A shard in the memory of its worker.

    Attributes
    ----------
    run_id : str
        Of the attempt at the layout to which the state belongs.
    shard : int
    layout : ShardPoints
        Positions and velocities.
    epoch : int
        Epochs done.
    partition_sum : float or None
        The shard's part of Z in the last epoch.
    """

    run_id: str
    shard: int
    layout: ShardPoints
    epoch: int
    partition_sum: float | None


@dataclass
class JointShardState(LoadedShard):
    """A shard of a joint layout, which other shards see row by row."""

    def summarize(self) -> ShardSummary:
        """Return the shard's part of Z; no other shard needs its patches."""
        return ShardSummary(self.shard, np.zeros((0, 0), np.float32), self.partition_sum)


@dataclass
class ShardState(LoadedShard):
    """A shard that exchanges summaries with others.

    Attributes
    ----------
    layout : ShardLayout
        Positions and velocities.
    patch_counts : ndarray of float32 (patches of all shards,)
        Rows of each patch.
    charges : RemoteCharges
    last_exchange, previous_exchange : Exchange or None
    """

    layout: ShardLayout
    patch_counts: np.ndarray
    charges: RemoteCharges
    last_exchange: Exchange | None = None
    previous_exchange: Exchange | None = None

    def summarize(self) -> ShardSummary:
        """Return the summary for other shards."""
        return ShardSummary(self.shard, self.layout.patch_moments(), self.partition_sum)

    def update_remote(self, epoch: int, summary: Summary) -> None:
        """Receive the summary of all shards after an epoch."""
        self.previous_exchange = self.last_exchange
        self.last_exchange = Exchange(epoch, summary, self._remote_state(summary))

    def run_epoch(self, schedule: Schedule) -> EpochResult:
        """Run the next epoch. Between exchanges, other shards are extrapolated from the last two summaries."""
        last, previous = self.last_exchange, self.previous_exchange
        assert last is not None  # noqa: S101 - `run_epochs` calls `update_remote` first
        remote = last.remote
        if self.epoch > last.epoch and previous is not None and len(self.patch_counts):
            factor = (self.epoch - last.epoch) / (last.epoch - previous.epoch)
            remote = self._remote_state(last.summary.extrapolate(previous.summary, factor))
        result = self.layout.run_epoch(schedule.at(self.epoch), remote)
        self.epoch += 1
        self.partition_sum = result.partition_sum
        return result

    def _remote_state(self, summary: Summary) -> RemoteState:
        return RemoteState(
            summary.moments(),
            self.patch_counts,
            self.charges.points(summary),
            self.charges.weights,
            summary.remote_partition_sum(self.shard),
            summary.partition_sums[self.shard],
        )
