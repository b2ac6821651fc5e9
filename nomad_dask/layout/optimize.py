"""The layout as the client sees it: batches of epochs on all shards, checkpoints, and lost workers."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from nomad_dask.callbacks.events import (
    CheckpointWritten,
    Emit,
    EpochDone,
    ShardPlaced,
    SnapshotRequest,
    WorkerLost,
)
from nomad_dask.cluster import Cluster, assign_shards
from nomad_dask.errors import ClusterError
from nomad_dask.layout.interrupt import graceful_interrupt
from nomad_dask.layout.schedule import is_exchange_epoch, mean_loss, next_sync_epoch, schedule
from nomad_dask.layout.shard_summary import ShardSummary, merge_summaries
from nomad_dask.layout.snapshots import SnapshotSchedule, rows_of_shards
from nomad_dask.layout.worker import (
    EpochBatchResult,
    StaleShard,
    checkpoint_file,
    load_shards,
    run_epochs,
    sample_positions,
    save_checkpoint,
    unload_shards,
)
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.workspace import Workspace

# A checkpoint is written when this time has passed, and not before 50 times what the last one took.
_CHECKPOINT_SECONDS = 10.0
_CHECKPOINT_COST = 50
# The client hears of shards after about this many seconds of epochs; among themselves they hear of each other
# after every one.
_BATCH_SECONDS = 0.5
# Losses in a row, without a checkpoint in between, after which something must be wrong with the workers.
_MOST_LOSSES = 10


@dataclass(frozen=True)
class _State:
    """All shards after `epoch` epochs."""

    epoch: int
    parts: list[ShardSummary]
    loss: float | None


class _Shards:
    """The shards on their workers."""

    def __init__(
        self,
        run: RunContext,
        cluster: Cluster,
        workspace: Workspace,
        emit: Emit,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.run, self.cluster, self.workspace = run, cluster, workspace
        self.emit, self.on_progress = emit, on_progress
        self.plan = schedule(run.params, run.plan.n_rows, refining=run.plan.coarse_rows > 0)
        self._id = ""
        self._homes: tuple[str, ...] = ()
        self._told = 0
        self._losses = 0

    def take_up(self) -> _State:
        """Load all shards at the last checkpoint, on the workers there are now."""
        facts = self.workspace.recorded_facts(CHECKPOINT) or {"epoch": 0, "loss": None}
        self._id = uuid.uuid4().hex  # what still runs of before works on its own copy
        self._place()
        parts = self._ask(load_shards)
        self._told = max(self._told, facts["epoch"])
        return _State(facts["epoch"], parts, facts["loss"])

    def advance(self, state: _State, n_epochs: int) -> _State:
        """Do about so many epochs; back at the last checkpoint where a worker was lost on the way."""
        run, plan = self.run, self.plan
        stop = next_sync_epoch(state.epoch, n_epochs, run.params.sync_every, plan.n_epochs)
        job = (self._homes, uuid.uuid4().hex, plan, state.epoch, stop, merge_summaries(state.parts))
        answers: list[EpochBatchResult | StaleShard] = self._ask(run_epochs, *job)
        done = [a for a in answers if isinstance(a, EpochBatchResult)]
        if len(done) < len(answers):
            return self._go_back()
        loss = state.loss
        for epoch, outcomes in enumerate(zip(*(a.outcomes for a in done), strict=True), state.epoch + 1):
            measured = mean_loss(run.params, run.plan.n_rows, outcomes)
            loss = loss if measured is None else measured
            if epoch > self._told:  # else it is done anew
                self.emit(EpochDone(epoch, plan.n_epochs, measured, self.exchanged(state) if self._tells(epoch) else 0))
        self._told = max(self._told, stop)
        self.on_progress(0, self._told)
        return _State(stop, [a.summary for a in done], loss)

    def save(self, state: _State) -> _State:
        """Make the state durable, then drop the checkpoint before it; back there where a worker was lost."""
        before = self.workspace.recorded_facts(CHECKPOINT)
        artifacts = self._ask(save_checkpoint, state.epoch)
        if any(isinstance(a, StaleShard) for a in artifacts):
            return self._go_back()
        z = [p.partition_sum for p in state.parts]
        self.workspace.record(CHECKPOINT, artifacts, epoch=state.epoch, z=z, loss=state.loss)
        if before is not None and before["epoch"] != state.epoch:
            self.workspace.remove(checkpoint_file(before["epoch"], 0).rsplit("/", 1)[0])
        self.emit(CheckpointWritten(state.epoch))
        self._losses = 0
        # Where workers have joined, a move costs just a load now.
        if state.epoch < self.plan.n_epochs and self._spread() != self._homes:
            return self.take_up()
        return state

    def show(self, state: _State, looks: SnapshotSchedule) -> None:
        """Tell where some rows are; where a worker was lost nothing is told, and the next batch goes back."""
        began = time.monotonic()
        positions = self._ask(sample_positions, state.epoch, looks.parts)
        if not any(isinstance(p, StaleShard) for p in positions):
            self.emit(looks.seen(state.epoch, positions, began))

    def exchanged(self, state: _State) -> int:
        """Return the bytes that shards tell each other at a time, each all others."""
        return sum(part.nbytes for part in state.parts) * (len(state.parts) - 1)

    def _tells(self, epoch: int) -> bool:
        return is_exchange_epoch(epoch, self.run.params.sync_every)

    def _spread(self) -> tuple[str, ...]:
        return tuple(assign_shards(self.run.plan.n_shards, self.cluster.workers()))

    def _place(self) -> None:
        before, self._homes = set(self._homes), self._spread()
        for address in sorted(before - {w.address for w in self.cluster.workers()}):
            self.emit(WorkerLost(address))
        for shard, (home, rows) in enumerate(zip(self._homes, rows_of_shards(self.run), strict=True)):
            self.emit(ShardPlaced(shard, home, self.cluster.device_of(home), len(rows)))

    def _ask(self, task: Any, *args: Any) -> list[Any]:
        """Run ``task(run, id, shards, *args)`` on every home and return what it says of each shard."""
        shards_of: dict[str, list[int]] = {}
        for s, home in enumerate(self._homes):
            shards_of.setdefault(home, []).append(s)
        # One task a worker: queued ones would be stolen by idle workers.
        jobs = [(self.run, self._id, tuple(group), *args) for group in shards_of.values()]
        answers = chain(*self.cluster.run(task, jobs, workers=list(shards_of)))
        answer_of = dict(zip(chain(*shards_of.values()), answers, strict=True))
        return [answer_of[s] for s in range(len(self._homes))]

    def _go_back(self) -> _State:
        """Take up the last checkpoint after a loss.

        Raises
        ------
        ClusterError
            That has been done many times, and no new checkpoint was reached.
        """
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise ClusterError(
                f"Workers were lost {self._losses} times since the last checkpoint of the layout: often the system "
                "ends a process that takes too much memory, or the network between workers breaks. Give workers "
                "more memory, or use more shards, and run the same again."
            )
        return self.take_up()


def optimize_layout(
    run: RunContext,
    cluster: Cluster,
    workspace: Workspace,
    emit: Emit,
    on_progress: Callable[[int, int], None],
    snapshot_request: SnapshotRequest | None = None,
) -> dict[str, Any]:
    """Lay out all shards and leave their last state as a checkpoint; return what was measured.

    `on_progress` is called with 0 and the epochs done. Snapshots are emitted as `snapshot_request` asks. Ctrl-C ends
    it with a KeyboardInterrupt: the first one lets the
    epochs under way end, and leaves their state as a checkpoint.
    """
    shards = _Shards(run, cluster, workspace, emit, on_progress)
    plan = shards.plan
    looks = None if snapshot_request is None else SnapshotSchedule(run, snapshot_request, plan.n_epochs)
    with graceful_interrupt() as stop:
        try:
            state = shards.take_up()
            batch, saved, saved_at, saving = 1, state.epoch, time.monotonic(), 0.0
            while state.epoch < plan.n_epochs:
                if looks is not None and looks.due():
                    shards.show(state, looks)
                started = time.monotonic()
                state = shards.advance(state, batch)
                now = time.monotonic()
                batch = max(1, min(2 * batch, math.ceil(batch * _BATCH_SECONDS / max(now - started, 1e-6))))
                due = max(_CHECKPOINT_SECONDS, _CHECKPOINT_COST * saving)
                last = state.epoch == plan.n_epochs or stop.is_set()
                if state.epoch > saved and (last or now - saved_at > due):
                    state = shards.save(state)
                    saved, saved_at = state.epoch, time.monotonic()
                    saving = saved_at - now
                if stop.is_set():
                    break
            if looks is not None:
                shards.show(state, looks)
            if stop.is_set():
                raise KeyboardInterrupt
        finally:
            cluster.broadcast_best_effort(unload_shards, str(run.workspace))
    return {"epochs": plan.n_epochs, "loss": state.loss, "exchanged_bytes_per_epoch": shards.exchanged(state)}
