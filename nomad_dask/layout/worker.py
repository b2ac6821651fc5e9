"""The shards on the worker that lays them out, and its tasks: begin, advance, save.

Their state is kept in the worker's memory between tasks. It is only a copy of what can be made again from the
last checkpoint, so a lost worker costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.base import EpochResult, RemoteState, ShardLayout
from nomad_dask.cluster import get_worker_state, report_progress, worker_backend, worker_threads
from nomad_dask.cluster.p2p import ExchangeAborted, PeerExchange
from nomad_dask.layout.initialization import density_scale, interpolate_init, pca_init
from nomad_dask.layout.schedule import Schedule, is_exchange_epoch
from nomad_dask.layout.shard_summary import RemoteCharges, ShardSummary, Summary, merge_summaries
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.halo import halo_region, open_vectors
from nomad_dask.neighbors.shard_graph import load_graph, load_patch_counts
from nomad_dask.partition.clustering import load_partition
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import CHECKPOINT, Artifact
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.memory import trim_memory


@dataclass(frozen=True)
class StaleShard:
    """A shard is not where a task needs it: its worker has lost it, or another worker what it was to tell."""


@dataclass(frozen=True)
class EpochBatchResult:
    """A shard after some epochs: what it tells, and what came out of each of them."""

    summary: ShardSummary
    outcomes: tuple[EpochResult, ...]


@dataclass
class _ShardState:
    """A shard in the memory of this worker.

    `heard` is the last summary of all shards, with its epoch and what it says of the others; `before` the one
    before it.
    """

    run_id: str
    shard: int
    layout: ShardLayout
    patch_counts: np.ndarray
    charges: RemoteCharges
    epoch: int
    partition_sum: float | None
    heard: tuple[int, Summary, RemoteState] | None = None
    before: tuple[int, Summary, RemoteState] | None = None

    def tell(self) -> ShardSummary:
        """Return what the others are told of the shard."""
        return ShardSummary(self.shard, self.layout.patch_moments(), self.partition_sum)

    def hear(self, epoch: int, summary: Summary) -> None:
        """Take in where all shards are after so many epochs."""
        self.before, self.heard = self.heard, (epoch, summary, self._remote(summary))

    def step(self, plan: Schedule) -> EpochResult:
        """Do an epoch. Between two summaries the others are taken to move on as they did between the last two."""
        assert self.heard is not None  # noqa: S101 - `run_epochs` has told it
        heard_at, summary, others = self.heard
        if self.epoch > heard_at and self.before is not None and len(self.patch_counts):
            before, earlier, _ = self.before
            others = self._remote(summary.extrapolate(earlier, (self.epoch - heard_at) / (heard_at - before)))
        outcome = self.layout.run_epoch(plan.at(self.epoch), others)
        self.epoch += 1
        self.partition_sum = outcome.partition_sum
        return outcome

    def _remote(self, summary: Summary) -> RemoteState:
        return RemoteState(
            summary.moments(),
            self.patch_counts,
            self.charges.points(summary),
            self.charges.weights,
            summary.remote_partition_sum(self.shard),
            summary.partition_sums[self.shard],
        )


class LoadedShards(dict[tuple[str, int], _ShardState]):
    """The shards in the memory of a worker, by workspace and number."""


def load_shards(run: RunContext, run_id: str, shards: tuple[int, ...]) -> list[ShardSummary]:
    """Load shards at their last checkpoint and return what they tell.

    What other workers do not hold any more is dropped here, too, if it is of this workspace.
    """
    trim_memory()
    loaded = get_worker_state().get(LoadedShards)
    for key in [k for k, live in loaded.items() if k[0] == str(run.workspace) and live.run_id != run_id]:
        del loaded[key]
    return [_load(run, run_id, shard).tell() for shard in shards]


def run_epochs(
    run: RunContext,
    run_id: str,
    shards: tuple[int, ...],
    homes: tuple[str, ...],
    batch: str,
    plan: Schedule,
    epoch: int,
    stop: int,
    summary: Summary,
) -> list[EpochBatchResult | StaleShard]:
    """Lay out some shards from `epoch` to `stop`, in step with those of other workers.

    Parameters
    ----------
    run : Run
    run_id : str
        Of the shards' state in memory.
    shards : tuple of int
        Those of this worker.
    homes : tuple of str
        Address of the worker of each shard of the map.
    batch : str
        Name of this call and those of the other workers.
    plan : Schedule
    epoch, stop : int
        Epochs done, and to be done afterwards.
    summary : Summary
        Of all shards after `epoch`.
    """
    alone = run.plan.n_shards == 1 and run.params.repulsion_method == "field"  # nobody to hear from
    outcomes: dict[int, list[EpochResult]] = {shard: [] for shard in shards}
    try:
        with PeerExchange(batch, homes) as post:
            lives = [_at(run, run_id, shard, epoch) for shard in shards]
            for live in lives:
                live.hear(epoch, summary)
            for done in range(epoch + 1, stop + 1):
                for live in lives:
                    outcomes[live.shard].append(live.step(plan))
                report_progress(done)
                if done < stop and not alone and is_exchange_epoch(done, run.params.sync_every):
                    parts = post.exchange(done, {live.shard: live.tell() for live in lives})
                    summary = merge_summaries(parts)
                    for live in lives:
                        live.hear(done, summary)
    except (_NotHere, ExchangeAborted):
        return [StaleShard() for _ in shards]
    return [EpochBatchResult(live.tell(), tuple(outcomes[live.shard])) for live in lives]


def save_checkpoint(run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int) -> list[Artifact | StaleShard]:
    """Write a checkpoint: positions and velocities (n, 2·dim) float32."""
    try:
        lives = [_at(run, run_id, shard, epoch) for shard in shards]
    except _NotHere:
        return [StaleShard() for _ in shards]
    workspace = Workspace(run.workspace)
    return [workspace.save(checkpoint_file(epoch, live.shard), np.hstack(live.layout.copy_state())) for live in lives]


def sample_positions(
    run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int, parts: tuple[slice, ...]
) -> list[np.ndarray | StaleShard]:
    """Return the positions (k, dim) float32 of the rows ``parts[shard]`` of each shard."""
    try:
        lives = [_at(run, run_id, shard, epoch) for shard in shards]
    except _NotHere:
        return [StaleShard() for _ in shards]
    return [live.layout.copy_positions(parts[live.shard]) for live in lives]


class _NotHere(Exception):  # noqa: N818 - nothing is wrong
    """A shard is not at the epoch that is asked for, in the memory of this worker."""


def _at(run: RunContext, run_id: str, shard: int, epoch: int) -> _ShardState:
    live = get_worker_state().get(LoadedShards).get((str(run.workspace), shard))
    if live is None or live.run_id != run_id or live.epoch != epoch:
        raise _NotHere
    return live


def unload_shards(workspace: str, dask_worker: Any) -> None:
    """Remove all shards of a workspace from memory; Dask gives the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedShards)
    for key in [k for k in loaded if k[0] == workspace]:
        del loaded[key]


def checkpoint_file(epoch: int, shard: int) -> str:
    """Return the name of a shard's checkpoint."""
    return f"layout/epoch-{epoch:06d}/{shard:04d}.npy"


def _load(run: RunContext, run_id: str, shard: int) -> _ShardState:
    """Take up a shard at the checkpoint the manifest names, or at its start."""
    dim = run.params.n_components
    facts = Workspace(run.workspace).recorded_facts(CHECKPOINT)
    z: float | None = None
    if facts is None:
        positions, epoch = _start(run, shard), 0
        velocity = np.zeros_like(positions)
    else:
        epoch, z = facts["epoch"], facts["z"][shard]
        state = np.load(run.file(checkpoint_file(epoch, shard)))
        positions, velocity = state[:, :dim], state[:, dim:]
    with worker_backend(run.device, worker_threads(run.shard_threads)) as backend:
        layout = backend.create_layout(load_graph(run, shard), run.params, run.plan.n_rows)
    layout.load(positions, velocity)
    counts = load_patch_counts(run)
    live = _ShardState(run_id, shard, layout, counts.reshape(-1), RemoteCharges.of_others(shard, counts, dim), epoch, z)
    get_worker_state().get(LoadedShards)[str(run.workspace), shard] = live
    return live


def _start(run: RunContext, shard: int) -> np.ndarray:
    """Return where the rows of a shard start."""
    rng = np.random.default_rng([run.params.random_state, 2, shard])
    rows = np.load(run.file(shard_file(shard, "rows")))
    if run.plan.coarse_rows:
        laid_out = np.load(run.file("coarse/rows.npy"))
        picture = np.load(run.file("coarse/positions.npy"))
        order = np.argsort(rows, kind="stable")
        here = np.isin(laid_out, rows, assume_unique=True)
        anchors = order[np.searchsorted(rows[order], laid_out[here])]
        places = np.argsort(anchors)
        cells = load_cell_catalog(run)
        return interpolate_init(
            open_vectors(run, cells, shard, halo_region(cells, shard, with_halo=False)),
            np.load(run.file(shard_file(shard, "cell_offsets"))),
            np.load(run.file(shard_file(shard, "centroids"))),
            anchors[places],
            picture[here][places],
            density_scale(picture, run.plan.n_rows),
            rng,
        )
    partition = load_partition(run)
    coordinates = np.load(run.file(shard_file(shard, "start")))
    return pca_init(coordinates, partition.axes.std, run.params.init_std, rng)
