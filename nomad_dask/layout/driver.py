"""The epoch loop: every shard steps, then all hear of each other; checkpoints, and shards whose worker is lost."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import numpy as np

from nomad_dask.cluster import Cluster
from nomad_dask.events import CheckpointWritten, Emit, EpochDone, StageAdvanced, StageStarted, WorkerLost
from nomad_dask.layout.schedule import Schedule, schedule
from nomad_dask.layout.shard import Behind, advance, begin, checkpoint_file, release, save
from nomad_dask.layout.summary import ShardSummary, Summary, merge
from nomad_dask.neighbors.shard import all_cells
from nomad_dask.plan import Run
from nomad_dask.workspace import Workspace

STAGE = "layout"
# A checkpoint is written when this time has passed, and not before 50 times what the last one took.
_CHECKPOINT_SECONDS = 10.0
_CHECKPOINT_COST = 50
# One shard has nobody to hear from, so it is told several epochs at a time: about this many seconds of them.
_BATCH_SECONDS = 0.5


class _Shards:
    """The shards on their workers, asked together and answered in order."""

    def __init__(self, run: Run, cluster: Cluster, emit: Emit) -> None:
        self.run, self.cluster, self.emit = run, cluster, emit
        self.id = uuid.uuid4().hex
        addresses = [w.address for w in cluster.workers()]
        self.homes = [addresses[s % len(addresses)] for s in range(run.plan.n_shards)]
        # The summary of every epoch since the last checkpoint: what a lost shard needs to catch up.
        self.told: dict[int, Summary] = {}

    def ask(self, task: Any, *args: Any) -> list[Any]:
        """Run ``task(run, id, shard, *args)`` for every shard; shards that are behind catch up first."""
        jobs = [(self.run, self.id, s, *args) for s in range(self.run.plan.n_shards)]
        answers = self.cluster.run(task, jobs, workers=self.homes)
        for answer in [a for a in answers if isinstance(a, Behind)]:
            self.emit(WorkerLost(self.homes[answer.shard]))
            answers[answer.shard] = self._catch_up(answer, task, args)
        return answers

    def _catch_up(self, behind: Behind, task: Any, args: tuple[Any, ...]) -> Any:
        """Redo the epochs since the checkpoint for one shard, with the summaries they had, then ask again."""
        for epoch in sorted(e for e in self.told if e >= behind.epoch):
            if task is advance and epoch >= args[1]:
                break
            following = min((e for e in self.told if e > epoch), default=args[1])
            job = (
                self.run,
                self.id,
                behind.shard,
                _schedule(self.run),
                epoch,
                following - epoch,
                self.told[epoch],
            )
            self.cluster.run(advance, [job], workers=[self.homes[behind.shard]])
        job = (self.run, self.id, behind.shard, *args)
        answer = self.cluster.run(task, [job], workers=[self.homes[behind.shard]])[0]
        return self._catch_up(answer, task, args) if isinstance(answer, Behind) else answer


def _schedule(run: Run) -> Schedule:
    return schedule(run.params, refining=run.plan.coarse_rows > 0)


def lay_out(run: Run, cluster: Cluster, workspace: Workspace, emit: Emit) -> dict[str, Any]:
    """Lay out all shards and leave their last state as a checkpoint; return what was measured."""
    plan = _schedule(run)
    emit(StageStarted(STAGE, plan.n_epochs, "epochs"))
    shards = _Shards(run, cluster, emit)
    edges = all_cells(run).edges
    cells = [np.arange(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    try:
        facts = workspace.facts("checkpoint") or {"epoch": 0, "z": [None] * run.plan.n_shards}
        epoch = facts["epoch"]
        parts: list[ShardSummary] = shards.ask(begin)
        known = {s: z for s, z in enumerate(facts["z"])}
        parts = [ShardSummary(p.shard, p.cell_means, p.grid, known[p.shard]) for p in parts]
        several = run.plan.n_shards > 1 or run.params.repulsion == "means"
        batch, exchanged, loss = 1, 0, None
        saved_at, saving = time.monotonic(), 0.0
        while epoch < plan.n_epochs:
            summary = merge(parts, cells)
            shards.told[epoch] = summary
            count = 1 if several else min(batch, plan.n_epochs - epoch)
            started = time.monotonic()
            parts = shards.ask(advance, plan, epoch, count, summary)
            seconds = time.monotonic() - started
            batch = max(1, min(2 * batch, math.ceil(batch * _BATCH_SECONDS / max(seconds, 1e-6))))
            epoch += count
            exchanged = sum(p.nbytes for p in parts) + summary.nbytes * len(parts)
            loss = _loss(run, parts)
            emit(EpochDone(epoch, plan.n_epochs, loss, exchanged))
            emit(StageAdvanced(STAGE, epoch))
            due = max(_CHECKPOINT_SECONDS, _CHECKPOINT_COST * saving)
            if epoch == plan.n_epochs or time.monotonic() - saved_at > due:
                started = time.monotonic()
                _checkpoint(shards, workspace, parts, epoch)
                saving = time.monotonic() - started
                saved_at = time.monotonic()
                emit(CheckpointWritten(epoch))
    finally:
        if not _gone(cluster):
            cluster.client.run(release, str(run.workspace))
    return {"epochs": plan.n_epochs, "loss": loss, "exchanged_bytes_per_epoch": exchanged}


def _gone(cluster: Cluster) -> bool:
    return bool(cluster.client.status != "running")


def _checkpoint(shards: _Shards, workspace: Workspace, parts: list[ShardSummary], epoch: int) -> None:
    """Make the state durable, then drop the checkpoint before it."""
    before = workspace.facts("checkpoint")
    artifacts = shards.ask(save, epoch)
    workspace.record("checkpoint", artifacts, epoch=epoch, z=[p.z for p in parts])
    shards.told.clear()
    if before is not None and before["epoch"] != epoch:
        workspace.remove(checkpoint_file(before["epoch"], 0).rsplit("/", 1)[0])


def _loss(run: Run, parts: list[ShardSummary]) -> float | None:
    """Return the mean loss a row, when every shard measured its part."""
    losses = [p.loss for p in parts]
    if any(part is None for part in losses):
        return None
    n = run.plan.n_rows
    total = sum(losses) / n  # type: ignore[arg-type]
    if run.params.normalizer == "point":
        return float(total)
    return float(total + math.log(max(sum(p.z or 0.0 for p in parts), 1e-300) / n))


def positions_of(run: Run, epoch: int, shard: int) -> np.ndarray:
    """Return the positions (n, dim) of a shard's rows in a checkpoint."""
    state = np.load(run.file(checkpoint_file(epoch, shard)), mmap_mode="r")
    return np.array(state[:, : run.params.n_components])
