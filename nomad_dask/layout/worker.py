"""The tasks of the layout on a worker: load shards, run epochs, save a checkpoint, sample positions.

The shards stay in the memory of the worker between tasks. They can be restored from the last checkpoint, so a lost
worker costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import EpochResult
from nomad_dask.backends.joint import RowParts
from nomad_dask.cluster import get_worker_state, report_progress, worker_backend
from nomad_dask.cluster.p2p import ExchangeAborted, PeerExchange
from nomad_dask.cluster.time_limit import TimeLimit
from nomad_dask.layout.checkpoint import ShardCheckpoint, checkpoint_file, load_checkpoint
from nomad_dask.layout.initialization import initial_positions
from nomad_dask.layout.joining import Group, JoinedGroups
from nomad_dask.layout.joint_epochs import JointEpochsFailed, run_joint_epochs
from nomad_dask.layout.remote_charges import RemoteCharges
from nomad_dask.layout.schedule import Schedule, is_exchange_epoch
from nomad_dask.layout.shard_state import JointShardState, LoadedShard, ShardState
from nomad_dask.layout.shard_summary import ShardSummary, Summary, merge_summaries
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.shard_graph import load_graph, load_joint_shard, load_patch_counts
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.manifest import Artifact
from nomad_dask.utils.memory import trim_memory

State = TypeVar("State", bound=LoadedShard)


@dataclass(frozen=True)
class StaleShard:
    """Result of a task for a shard that is not in the state the task needs: a worker was lost or has restarted.

    Attributes
    ----------
    failure : str
        Why workers that have joined cannot communicate, if that is the reason.
    """

    failure: str = ""


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
    joint_limit : TimeLimit or None
        How long an epoch of a joint layout may take; None if shards exchange summaries instead.
    """

    name: str
    worker_addresses: tuple[str, ...]
    schedule: Schedule
    start: int
    stop: int
    summary: Summary
    joint_limit: TimeLimit | None = None


@dataclass(frozen=True)
class EpochBatchResult:
    """A shard after a batch.

    Attributes
    ----------
    summary : ShardSummary
    epochs : tuple of EpochResult
    exchanged_bytes : int or None
        What the workers of a joint layout exchanged in each epoch; None if shards exchange summaries.
    """

    summary: ShardSummary
    epochs: tuple[EpochResult, ...]
    exchanged_bytes: int | None = None


class ShardNotLoaded(Exception):  # noqa: N818 - handled within this module
    """A shard is not in the memory of this worker, or at another epoch."""


class LoadedShards(dict[tuple[str, int], LoadedShard]):
    """The shards in the memory of a worker, by workspace and number."""


def load_shards(
    run: RunContext, run_id: str, shards: tuple[int, ...], is_joint: bool
) -> list[ShardSummary | StaleShard]:
    """Load shards at their last checkpoint, and return their summaries.

    Other shards of the workspace are removed from memory, if they belong to an earlier attempt.

    Parameters
    ----------
    run : RunContext
    run_id : str
    shards : tuple of int
    is_joint : bool
        Whether the workers have joined.
    """
    trim_memory()
    loaded = get_worker_state().get(LoadedShards)
    for key in [k for k, state in loaded.items() if k[0] == str(run.workspace) and state.run_id != run_id]:
        del loaded[key]
    if not is_joint:
        return [_load_shard(run, run_id, shard).summarize() for shard in shards]
    try:
        return [state.summarize() for state in _load_joint_shards(run, run_id, shards)]
    except ShardNotLoaded:
        return [StaleShard() for _ in shards]


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
    if batch.joint_limit is not None:
        return _run_jointly(run, run_id, shards, batch, batch.joint_limit)
    needs_exchange = run.plan.n_shards > 1 or run.params.repulsion_method != "field"
    results: dict[int, list[EpochResult]] = {shard: [] for shard in shards}
    try:
        with PeerExchange(batch.name, batch.worker_addresses) as peers:
            states = [_get_shard(run, run_id, shard, batch.start, ShardState) for shard in shards]
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


def _run_jointly(
    run: RunContext, run_id: str, shards: tuple[int, ...], batch: EpochBatch, limit: TimeLimit
) -> list[EpochBatchResult | StaleShard]:
    """Run a batch of epochs of the shards of this worker in a joint layout."""
    try:
        with PeerExchange(batch.name, batch.worker_addresses) as peers:
            states = [_get_shard(run, run_id, shard, batch.start, JointShardState) for shard in shards]
            group = _get_group(run, run_id)
            results, n_bytes = run_joint_epochs(group, batch.schedule, batch.start, batch.stop, peers, limit)
    except (ShardNotLoaded, ExchangeAborted):
        return [StaleShard() for _ in shards]
    except JointEpochsFailed as error:
        return [StaleShard(str(error)) for _ in shards]
    for state, epochs in zip(states, results, strict=True):
        state.epoch, state.partition_sum = batch.stop, epochs[-1].partition_sum
    return [
        EpochBatchResult(state.summarize(), tuple(epochs), n_bytes)
        for state, epochs in zip(states, results, strict=True)
    ]


def save_checkpoint(run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int) -> list[Artifact | StaleShard]:
    """Write the positions and velocities of some shards to a checkpoint."""
    try:
        states = [_get_shard(run, run_id, shard, epoch, LoadedShard) for shard in shards]
    except ShardNotLoaded:
        return [StaleShard() for _ in shards]
    folder = ArtifactFolder(run.workspace)
    return [folder.save(checkpoint_file(epoch, state.shard), np.hstack(state.layout.copy_state())) for state in states]


def sample_positions(
    run: RunContext, run_id: str, shards: tuple[int, ...], epoch: int, slices: tuple[slice, ...]
) -> list[np.ndarray | StaleShard]:
    """Return the positions (k, dim) float32 of the rows ``slices[shard]`` of each shard."""
    try:
        states = [_get_shard(run, run_id, shard, epoch, LoadedShard) for shard in shards]
    except ShardNotLoaded:
        return [StaleShard() for _ in shards]
    return [state.layout.copy_positions(slices[state.shard]) for state in states]


def unload_shards(workspace: str, dask_worker: Any) -> None:
    """Remove all shards of a workspace from memory; Dask passes the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedShards)
    for key in [k for k in loaded if k[0] == workspace]:
        del loaded[key]
    get_worker_state(dask_worker).get(JoinedGroups).leave(workspace)


def _get_shard(run: RunContext, run_id: str, shard: int, epoch: int, kind: type[State]) -> State:
    """Return a shard in memory.

    Raises
    ------
    ShardNotLoaded
        It is not there, not at this epoch, or not of the kind that the task needs.
    """
    state = get_worker_state().get(LoadedShards).get((str(run.workspace), shard))
    if not isinstance(state, kind) or state.run_id != run_id or state.epoch != epoch:
        raise ShardNotLoaded
    return state


def _get_group(run: RunContext, run_id: str) -> Group:
    """Return the group that this worker has joined.

    Raises
    ------
    ShardNotLoaded
        It has not.
    """
    group = get_worker_state().get(JoinedGroups).get(str(run.workspace))
    if group is None or group.run_id != run_id:
        raise ShardNotLoaded
    return group


def _load_shard(run: RunContext, run_id: str, shard: int) -> ShardState:
    """Load a shard at the last checkpoint, or at its initial positions."""
    with worker_backend(run.device, run.shard_threads) as backend:
        checkpoint = load_checkpoint(run, shard) or _start_shard(run, shard, backend)
        graph = load_graph(run, shard, backend)
        layout = backend.create_layout(graph, run.params, run.plan.n_rows, run.plan.max_mesh_nodes)
    layout.load(checkpoint.positions, checkpoint.velocity)
    counts = load_patch_counts(run)
    charges = RemoteCharges.of_others(shard, counts, run.params.n_components)
    state = ShardState(run_id, shard, layout, checkpoint.epoch, checkpoint.partition_sum, counts.reshape(-1), charges)
    get_worker_state().get(LoadedShards)[str(run.workspace), shard] = state
    return state


def _load_joint_shards(run: RunContext, run_id: str, shards: tuple[int, ...]) -> list[JointShardState]:
    """Load shards of a joint layout; this worker must have joined.

    Raises
    ------
    ShardNotLoaded
        It has not.
    """
    group, loaded = _get_group(run, run_id), get_worker_state().get(LoadedShards)
    with worker_backend(run.device, run.shard_threads) as backend:
        joint = backend.joint_layouts
        assert joint is not None  # noqa: S101 - the worker has joined by it
        checkpoints = [load_checkpoint(run, shard) or _start_shard(run, shard, backend) for shard in shards]
        parts = RowParts(load_cell_catalog(run).first_rows(), group.owners, max(group.owners) + 1)
        loaded_shards = [load_joint_shard(run, shard) for shard in shards]
        layout = joint.create_layout(loaded_shards, parts, run.params, group.communicator)
    group.layout = layout
    states = []
    for i, (shard, checkpoint) in enumerate(zip(shards, checkpoints, strict=True)):
        layout.load(i, checkpoint.positions, checkpoint.velocity)
        state = JointShardState(run_id, shard, layout.shards[i], checkpoint.epoch, checkpoint.partition_sum)
        loaded[str(run.workspace), shard] = state
        states.append(state)
    return states


def _start_shard(run: RunContext, shard: int, backend: Backend) -> ShardCheckpoint:
    positions = initial_positions(run, shard, backend)
    return ShardCheckpoint(0, positions, np.zeros_like(positions), None)
