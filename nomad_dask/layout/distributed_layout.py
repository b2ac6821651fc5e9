"""The layout of all shards on their workers, as the client sees it: it recovers from lost workers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from nomad_dask.callbacks.events import CheckpointWritten, Emit, EpochDone, ShardPlaced, WorkerLost
from nomad_dask.cluster import Cluster, assign_shards
from nomad_dask.errors import ClusterError
from nomad_dask.layout.checkpoint import checkpoint_folder
from nomad_dask.layout.joining import JoinRequest, join_group
from nomad_dask.layout.joint_mode import JointMode
from nomad_dask.layout.schedule import is_exchange_epoch, make_schedule, mean_loss, next_sync_epoch
from nomad_dask.layout.shard_summary import ShardSummary, merge_summaries
from nomad_dask.layout.snapshots import SnapshotSchedule, load_shard_rows
from nomad_dask.layout.worker import (
    EpochBatch,
    EpochBatchResult,
    StaleShard,
    load_shards,
    run_epochs,
    sample_positions,
    save_checkpoint,
)
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.workspace import Workspace

# After this many losses without a checkpoint in between, the layout fails.
_MAX_LOSSES = 10


@dataclass(frozen=True)
class LayoutState:
    """All shards after `epoch` epochs.

    Attributes
    ----------
    epoch : int
    summaries : list of ShardSummary
    loss : float or None
        The last measured loss.
    joint_bytes : int or None
        Bytes that the workers of a joint layout exchange in an epoch; None if shards exchange summaries.
    """

    epoch: int
    summaries: list[ShardSummary]
    loss: float | None
    joint_bytes: int | None = None

    def exchanged_bytes(self) -> int:
        """Return the bytes of one exchange; without a joint layout, each shard sends its summary to all others."""
        if self.joint_bytes is not None:
            return self.joint_bytes
        return sum(summary.nbytes for summary in self.summaries) * (len(self.summaries) - 1)


class DistributedLayout:
    """All shards on their workers.

    Methods that find a worker lost restore the last checkpoint and return its state.

    Parameters
    ----------
    run : RunContext
    cluster : Cluster
    workspace : Workspace
    emit : callable
        Receives the events.
    on_progress : callable
        Receives 0 and the number of epochs done.

    Attributes
    ----------
    schedule : Schedule
    """

    def __init__(
        self,
        run: RunContext,
        cluster: Cluster,
        workspace: Workspace,
        emit: Emit,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._run, self._cluster, self._workspace = run, cluster, workspace
        self._emit, self._on_progress = emit, on_progress
        self.schedule = make_schedule(run.params, run.plan.n_rows)
        self._joint = JointMode(run)
        self._run_id = ""
        self._worker_addresses: tuple[str, ...] = ()
        # Epochs that are repeated after a loss are not reported again.
        self._reported_epoch = 0
        self._n_losses = 0

    def restore_checkpoint(self) -> LayoutState:
        """Load all shards at the last checkpoint, on the current workers."""
        facts = self._workspace.recorded_facts(CHECKPOINT) or {"epoch": 0, "loss": None}
        self._run_id = uuid.uuid4().hex  # tasks of an earlier attempt that still run do not touch these shards
        self._place_shards()
        self._joint.begin(facts)
        if self._joint.is_wanted and not self._join_workers():
            return self._rollback()
        summaries = self._run_task(load_shards, self._joint.is_wanted)
        if any(isinstance(summary, StaleShard) for summary in summaries):
            return self._rollback()
        self._reported_epoch = max(self._reported_epoch, facts["epoch"])
        return LayoutState(facts["epoch"], summaries, facts["loss"])

    def _join_workers(self) -> bool:
        """Let the workers join, or give the joint layout up; return False if one of them was lost meanwhile."""
        request = JoinRequest(uuid.uuid4().hex, self._worker_addresses, self._joint.limit)
        answers: list[str | None] = self._run_task(join_group, request)
        if None in answers:
            return False
        if reason := answers[0]:
            self._joint.give_up(reason)
        return True

    def run_epochs(self, state: LayoutState, n_epochs: int) -> LayoutState:
        """Run a batch of about `n_epochs` epochs."""
        schedule, sync_every = self.schedule, self._run.params.sync_every
        stop = next_sync_epoch(state.epoch, n_epochs, sync_every, schedule.n_epochs)
        summary = merge_summaries(state.summaries)
        limit = self._joint.limit if self._joint.is_wanted else None
        batch = EpochBatch(uuid.uuid4().hex, self._worker_addresses, schedule, state.epoch, stop, summary, limit)
        answers: list[EpochBatchResult | StaleShard] = self._run_task(run_epochs, batch)
        results = [answer for answer in answers if isinstance(answer, EpochBatchResult)]
        if len(results) < len(answers):
            self._report_failure([answer for answer in answers if isinstance(answer, StaleShard)])
            return self._rollback()
        loss = self._report_epochs(state, stop, results)
        return LayoutState(stop, [result.summary for result in results], loss, results[0].exchanged_bytes)

    def _report_failure(self, stale: Sequence[StaleShard]) -> None:
        """Report why workers cannot communicate, unless that is because one of them is lost."""
        failures = [shard.failure for shard in stale if shard.failure]
        if failures and set(self._worker_addresses) <= {worker.address for worker in self._cluster.workers()}:
            self._joint.report_failure(failures[0])

    def save_checkpoint(self, state: LayoutState) -> LayoutState:
        """Write a durable checkpoint, and remove the previous one."""
        previous = self._workspace.recorded_facts(CHECKPOINT)
        artifacts = self._run_task(save_checkpoint, state.epoch)
        if any(isinstance(artifact, StaleShard) for artifact in artifacts):
            return self._rollback()
        partition_sums = [summary.partition_sum for summary in state.summaries]
        facts = self._joint.facts()
        self._workspace.record(CHECKPOINT, artifacts, epoch=state.epoch, z=partition_sums, loss=state.loss, **facts)
        if previous is not None and previous["epoch"] != state.epoch:
            self._workspace.remove(checkpoint_folder(previous["epoch"]))
        self._emit(CheckpointWritten(state.epoch))
        self._n_losses = 0
        # If workers have joined, shards can move now at the cost of loading them.
        if state.epoch < self.schedule.n_epochs and self._assign_workers() != self._worker_addresses:
            return self.restore_checkpoint()
        return state

    def emit_snapshot(self, state: LayoutState, snapshots: SnapshotSchedule) -> None:
        """Emit a snapshot; none if a worker was lost, which the next batch handles."""
        started = time.monotonic()
        positions = self._run_task(sample_positions, state.epoch, snapshots.slices)
        if not any(isinstance(part, StaleShard) for part in positions):
            self._emit(snapshots.make_snapshot(state.epoch, positions, started))

    def _report_epochs(self, state: LayoutState, stop: int, results: Sequence[EpochBatchResult]) -> float | None:
        """Emit the events of the epochs from `state` to `stop`, and return the last measured loss."""
        last_loss, n_epochs = state.loss, self.schedule.n_epochs
        for epoch, shard_results in enumerate(zip(*(r.epochs for r in results), strict=True), state.epoch + 1):
            loss = mean_loss(self._run.params, self._run.plan.n_rows, shard_results)
            last_loss = last_loss if loss is None else loss
            if epoch > self._reported_epoch:
                is_exchange = is_exchange_epoch(epoch, self._run.params.sync_every)
                self._emit(EpochDone(epoch, n_epochs, loss, state.exchanged_bytes() if is_exchange else 0))
        self._reported_epoch = max(self._reported_epoch, stop)
        self._on_progress(0, self._reported_epoch)
        return last_loss

    def _assign_workers(self) -> tuple[str, ...]:
        return tuple(assign_shards(self._run.plan.n_shards, self._cluster.workers()))

    def _place_shards(self) -> None:
        """Assign the shards to the current workers, and emit which workers were lost and where the shards are."""
        previous, self._worker_addresses = set(self._worker_addresses), self._assign_workers()
        for address in sorted(previous - {worker.address for worker in self._cluster.workers()}):
            self._emit(WorkerLost(address))
        shard_rows = load_shard_rows(self._run)
        for shard, (address, rows) in enumerate(zip(self._worker_addresses, shard_rows, strict=True)):
            self._emit(ShardPlaced(shard, address, self._cluster.device_of(address), len(rows)))

    def _run_task(self, task: Any, *args: Any) -> list[Any]:
        """Run ``task(run, run_id, shards, *args)`` on every worker, and return the results by shard."""
        shards_of: dict[str, list[int]] = {}
        for shard, address in enumerate(self._worker_addresses):
            shards_of.setdefault(address, []).append(shard)
        # One task per worker, because idle workers would steal tasks that are queued.
        jobs = [(self._run, self._run_id, tuple(shards), *args) for shards in shards_of.values()]
        results = chain(*self._cluster.run(task, jobs, workers=list(shards_of)))
        result_of = dict(zip(chain(*shards_of.values()), results, strict=True))
        return [result_of[shard] for shard in range(len(self._worker_addresses))]

    def _rollback(self) -> LayoutState:
        """Restore the last checkpoint after a loss.

        Raises
        ------
        ClusterError
            Too many losses since the last checkpoint.
        """
        self._n_losses += 1
        if self._n_losses > _MAX_LOSSES:
            raise ClusterError(
                f"Workers were lost {self._n_losses} times since the last checkpoint of the layout: often the system "
                "kills a process that takes too much memory, or the network between workers fails. Give workers "
                "more memory, or use more shards, and run it again."
            )
        return self.restore_checkpoint()
