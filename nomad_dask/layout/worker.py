"""The tasks of the layout on a worker: load shards, run epochs, save a checkpoint, sample positions.

The shards stay in the memory of the worker between tasks. They can be restored from the last checkpoint, so a lost
worker costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import EpochResult
from nomad_dask.cluster import get_worker_state, report_progress, worker_backend
from nomad_dask.cluster.p2p import ExchangeAborted, PeerExchange
from nomad_dask.layout.checkpoint import ShardCheckpoint, checkpoint_file, load_checkpoint
from nomad_dask.layout.initialization import initial_positions
from nomad_dask.layout.remote_charges import RemoteCharges
from nomad_dask.layout.schedule import Schedule, is_exchange_epoch
from nomad_dask.layout.shard_state import ShardState
from nomad_dask.layout.shard_summary import ShardSummary, Summary, merge_summaries
from nomad_dask.neighbors.shard_graph import load_graph, load_patch_counts
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.manifest import Artifact
from nomad_dask.utils.memory import trim_memory


@dataclass(frozen=True)
class StaleShard:
    """Result of a task for a shard that is not in the state the task needs: a worker was lost or has restarted."""


@dataclass(frozen=True)
class EpochBatch:
    """Epochs that all workers run in step.

    Attributes
    ----------
    name : str
        Unique name of the exchange between the workers.
    worker_addresses : tuple of str
        Address of the worker of each shard of the map.
    schedule : Schedule
    start, stop : int
        Epochs done before and after the batch.
    summary : Summary
        Of all shards after `start`.
    """

    name: str
    worker_addresses: tuple[str, ...]
    schedule: Schedule
    start: int
    stop: int
    summary: Summary


@dataclass(frozen=True)
class EpochBatchResult:
    """A shard after a batch: its summary, and the result of each epoch."""

    summary: ShardSummary
    epochs: tuple[EpochResult, ...]


class ShardNotLoaded(Exception):  # noqa: N818 - handled within this module
    """A shard is not in the memory of this worker, or at another epoch."""


class LoadedShards(dict[tuple[str, int], ShardState]):
    """The shards in the memory of a worker, by workspace and number."""


def load_shards(run: RunContext, run_id: str, shards: tuple[int, ...]) -> list[ShardSummary]:
    """Load shards at their last checkpoint, and return their summaries.

    Other shards of the workspace are removed from memory, if they belong to an earlier attempt.
    """
    trim_memory()
    loaded = get_worker_state().get(LoadedShards)
    for key in [k for k, state in loaded.items() if k[0] == str(run.workspace) and state.run_id != run_id]:
        del loaded[key]
    return [_load_shard(run, run_id, shard).summarize() for shard in shards]


def run_epochs(
    run: RunContext, run_id: str, shards: tuple[int, ...], batch: EpochBatch
) -> list[EpochBatchResult | StaleShard]:
    """Run a batch of epochs of some shards, in step with those on other workers.

    Parameters
    ----------
    run : RunContext
    run_id : str
        Of the shards in memory.
    shards : tuple of int
        Shards of this worker.
    batch : EpochBatch
    """
    needs_exchange = run.plan.n_shards > 1 or run.params.repulsion_method != "field"
    results: dict[int, list[EpochResult]] = {shard: [] for shard in shards}
    try:
        with PeerExchange(batch.name, batch.worker_addresses) as peers:
            states = [_get_shard(run, run_id, shard, batch.start) for shard in shards]
            for state in states:
                state.update_remote(batch.start, batch.summary)
            for epoch in range(batch.start + 1, batch.stop + 1):
                for state in states:
                    results[state.shard].append(state.run_epoch(batch.schedule))
                report_progress(epoch)
                if needs_exchange and epoch < batch.stop and is_exchange_epoch(epoch, run.params.sync_every):
                    summaries = peers.exchange(epoch, {state.shard: state.summarize() for state in states})
                    summary = merge_summaries(summaries)
                    for state in states:
                        state.update_remote(epoch, summary)
    except (ShardNotLoaded, ExchangeAborted):
        return [StaleShard() for _ in shards]
    return [EpochBatchResult(state.summarize(), tuple(results[state.shard])) for state in states]


def save_checkpoint(run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int) -> list[Artifact | StaleShard]:
    """Write the positions and velocities of some shards to a checkpoint."""
    try:
        states = [_get_shard(run, run_id, shard, epoch) for shard in shards]
    except ShardNotLoaded:
        return [StaleShard() for _ in shards]
    folder = ArtifactFolder(run.workspace)
    return [folder.save(checkpoint_file(epoch, state.shard), np.hstack(state.layout.copy_state())) for state in states]


def sample_positions(
    run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int, slices: tuple[slice, ...]
) -> list[np.ndarray | StaleShard]:
    """Return the positions (k, dim) float32 of the rows ``slices[shard]`` of each shard."""
    try:
        states = [_get_shard(run, run_id, shard, epoch) for shard in shards]
    except ShardNotLoaded:
        return [StaleShard() for _ in shards]
    return [state.layout.copy_positions(slices[state.shard]) for state in states]


def unload_shards(workspace: str, dask_worker: Any) -> None:
    """Remove all shards of a workspace from memory; Dask passes the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedShards)
    for key in [k for k in loaded if k[0] == workspace]:
        del loaded[key]


def _get_shard(run: RunContext, run_id: str, shard: int, epoch: int) -> ShardState:
    """Return a shard in memory.

    Raises
    ------
    ShardNotLoaded
        It is not there, or not at this epoch.
    """
    state = get_worker_state().get(LoadedShards).get((str(run.workspace), shard))
    if state is None or state.run_id != run_id or state.epoch != epoch:
        raise ShardNotLoaded
    return state


def _load_shard(run: RunContext, run_id: str, shard: int) -> ShardState:
    """Load a shard at the last checkpoint, or at its initial positions."""
    with worker_backend(run.device, run.shard_threads) as backend:
        checkpoint = load_checkpoint(run, shard) or _start_shard(run, shard, backend)
        graph = load_graph(run, shard, backend)
        layout = backend.create_layout(graph, run.params, run.plan.n_rows, run.plan.max_mesh_nodes)
    layout.load(checkpoint.positions, checkpoint.velocity)
    counts = load_patch_counts(run)
    charges = RemoteCharges.of_others(shard, counts, run.params.n_components)
    state = ShardState(run_id, shard, layout, counts.reshape(-1), charges, checkpoint.epoch, checkpoint.partition_sum)
    get_worker_state().get(LoadedShards)[str(run.workspace), shard] = state
    return state


def _start_shard(run: RunContext, shard: int, backend: Backend) -> ShardCheckpoint:
    positions = initial_positions(run, shard, backend)
    return ShardCheckpoint(0, positions, np.zeros_like(positions), None)
