"""The epoch loop: every shard steps, then all hear of each other; checkpoints, and lost workers."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np

from nomad_dask.cluster import Cluster, spread
from nomad_dask.events import CheckpointWritten, Emit, EpochDone, ShardPlaced, StageAdvanced, StageStarted, WorkerLost
from nomad_dask.layout.schedule import Schedule, schedule
from nomad_dask.layout.shard import Behind, advance, begin, checkpoint_file, release, save
from nomad_dask.layout.summary import ShardSummary, Summary, merge
from nomad_dask.plan import Run
from nomad_dask.workspace import Workspace

STAGE = "layout"
# A checkpoint is written when this time has passed, and not before 50 times what the last one took.
_CHECKPOINT_SECONDS = 10.0
_CHECKPOINT_COST = 50
# Shards that exchange more seldom begin each period with a fresh summary and need none before it. Checkpoints are
# written there, so that a run that is taken up knows all it needs.
_PERIOD = 13
# One shard has nobody to hear from, so it is told several epochs at a time: about this many seconds of them.
_BATCH_SECONDS = 0.5


class _Shards:
    """The shards on their workers, asked together and answered in order."""

    def __init__(self, run: Run, cluster: Cluster, emit: Emit) -> None:
        self.run, self.cluster, self.emit = run, cluster, emit
        self.id = uuid.uuid4().hex
        # The summary of every epoch since the last checkpoint: what a lost shard needs to catch up.
        self.told: dict[int, Summary] = {}
        self.settle()

    def settle(self) -> None:
        """Spread the shards over the workers there are now; after a checkpoint a move costs just a load."""
        self.homes = spread(self.run.plan.n_shards, self.cluster.workers())

    def ask(self, task: Any, *args: Any) -> list[Any]:
        """Run ``task(run, id, shard, *args)`` for every shard; shards that are behind catch up first."""
        answers = self._ask(range(len(self.homes)), task, args)
        behind = [a for a in answers if isinstance(a, Behind)]
        if behind:
            self._leave_lost_homes()
        for answer in behind:
            answers[answer.shard] = self._catch_up(answer, task, args)
        return answers

    def _ask(self, shards: Sequence[int], task: Any, args: tuple[Any, ...]) -> list[Any]:
        """Ask some shards, those of one worker in one task: queued ones would be stolen by idle workers."""
        shards_of: dict[str, list[int]] = {}
        for s in shards:
            shards_of.setdefault(self.homes[s], []).append(s)
        jobs = [(task, self.run, self.id, tuple(group), args) for group in shards_of.values()]
        answers = self.cluster.run(_on_one_worker, jobs, workers=list(shards_of))
        answer_of = dict(zip(chain(*shards_of.values()), chain(*answers), strict=True))
        return [answer_of[s] for s in shards]

    def _leave_lost_homes(self) -> None:
        """Give the shards of workers that are gone to those that have the fewest."""
        alive = [w.address for w in self.cluster.workers()]
        for address in sorted(set(self.homes) - set(alive)):
            self.emit(WorkerLost(address))
            for s in [s for s, home in enumerate(self.homes) if home == address]:
                self.homes[s] = min(alive, key=self.homes.count)

    def _catch_up(self, behind: Behind, task: Any, args: tuple[Any, ...]) -> Any:
        """Redo the epochs since the checkpoint for one shard, with the summaries they had, then ask again."""
        wanted = args[1] if task is advance else args[0]
        answer: Any = behind
        while isinstance(answer, Behind):
            epochs = [e for e in sorted(self.told) if behind.epoch <= e < wanted]
            for epoch, following in pairwise([*epochs, wanted]):
                job = (_schedule(self.run), epoch, following - epoch, self.told[epoch])
                self._ask([behind.shard], advance, job)
            (answer,) = self._ask([behind.shard], task, args)
            if isinstance(answer, Behind):
                self._leave_lost_homes()
        return answer


def _on_one_worker(task: Any, run: Run, run_id: str, shards: tuple[int, ...], args: tuple[Any, ...]) -> list[Any]:
    return [task(run, run_id, shard, *args) for shard in shards]


def _schedule(run: Run) -> Schedule:
    return schedule(run.params, run.plan.n_rows, refining=run.plan.coarse_rows > 0)


def lay_out(run: Run, cluster: Cluster, workspace: Workspace, emit: Emit) -> dict[str, Any]:
    """Lay out all shards and leave their last state as a checkpoint; return what was measured."""
    plan = _schedule(run)
    emit(StageStarted(STAGE, plan.n_epochs, "epochs"))
    shards = _Shards(run, cluster, emit)
    try:
        facts = workspace.facts("checkpoint") or {
            "epoch": 0,
            "z": [None] * run.plan.n_shards,
            "loss": None,
            "exchanged": 0,
        }
        epoch = facts["epoch"]
        parts: list[ShardSummary] = shards.ask(begin)
        for shard, home in enumerate(shards.homes):
            emit(ShardPlaced(shard, home, cluster.device_of(home)))
        known = dict(enumerate(facts["z"]))
        parts = [ShardSummary(p.shard, p.patches, known[p.shard]) for p in parts]
        several = run.plan.n_shards > 1 or run.params.repulsion == "means"
        batch, exchanged, loss = 1, facts["exchanged"], facts["loss"]
        saved_at, saving = time.monotonic(), 0.0
        while epoch < plan.n_epochs:
            summary = merge(parts)
            shards.told[epoch] = summary
            count = min(_together(epoch, run.params.exchange_every) if several else batch, plan.n_epochs - epoch)
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
            at_rest = not several or run.params.exchange_every == 1 or epoch % _PERIOD == 0
            if epoch == plan.n_epochs or (at_rest and time.monotonic() - saved_at > due):
                started = time.monotonic()
                _checkpoint(shards, workspace, parts, epoch, loss=loss, exchanged=exchanged)
                saving = time.monotonic() - started
                saved_at = time.monotonic()
                emit(CheckpointWritten(epoch))
                shards.settle()
    finally:
        cluster.tell(release, str(run.workspace))
    return {"epochs": plan.n_epochs, "loss": loss, "exchanged_bytes_per_epoch": exchanged}


def _together(epoch: int, exchange_every: int) -> int:
    """Return how many epochs shards do before they hear of each other again."""
    done = epoch % _PERIOD
    return 1 if done == 0 else min(exchange_every, _PERIOD - done)


def _checkpoint(shards: _Shards, workspace: Workspace, parts: list[ShardSummary], epoch: int, **facts: Any) -> None:
    """Make the state durable, then drop the checkpoint before it."""
    before = workspace.noted("checkpoint")
    artifacts = shards.ask(save, epoch)
    workspace.record("checkpoint", artifacts, epoch=epoch, z=[p.z for p in parts], **facts)
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
