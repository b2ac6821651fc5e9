"""The run through the stages: each is skipped when the workspace holds its artifacts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nomad_dask.callbacks.events import CheckpointWritten, Event, Measured, StageFinished, StageStarted
from nomad_dask.partition.checksums import with_checksums
from nomad_dask.pipeline.collect import collect_positions
from nomad_dask.pipeline.pending import find_damage, pending_stages, unreferenced_artifacts
from nomad_dask.pipeline.setup import SOURCE_COPY, must_copy
from nomad_dask.pipeline.stage import FinishedStages, Stage, StageContext, StageFunction
from nomad_dask.pipeline.stages import artifact_folders, stages_of_run
from nomad_dask.sources.npy import copy_to_npy
from nomad_dask.storage.manifest import CHECKPOINT


def run_stages(context: StageContext) -> FinishedStages:
    """Run the stages that the workspace does not hold yet, and collect the positions."""
    stages = stages_of_run(context.run.plan.coarse_rows > 0, context.run.plan.keeps_lists)
    pending = pending_stages(stages, context.workspace.stages(), find_damage(context.workspace))
    _remove_leftovers(context, stages, pending)
    runner = _StageRunner(context, stages, pending)
    runner.run_all()
    positions, cell_labels = collect_positions(
        context.workspace, context.run.plan.n_shards, runner.diagnostics["epochs"]
    )
    return FinishedStages(positions, cell_labels, runner.diagnostics, runner.seconds)


def _remove_leftovers(context: StageContext, stages: Sequence[Stage], pending: set[str]) -> None:
    """Remove files of a killed run that are not in the manifest."""
    folders = artifact_folders()
    # An unfinished coarse map has a workspace of its own, from which it resumes.
    resumed = {stage.name for stage in stages if stage.is_coarse and stage.name in pending}
    context.workspace.clean(set().union(*(names for stage, names in folders.items() if stage not in resumed)))


def _with_shared_source(context: StageContext) -> StageContext:
    """Return the context with a source that all workers can open: if necessary, a copy on disk."""
    source = context.run.source
    if not must_copy(source, context.cluster):
        return context
    source = with_checksums(context.run).source
    copy = copy_to_npy(source, context.workspace.file(SOURCE_COPY), context.run.plan.block_rows)
    return replace(context, run=replace(context.run, source=copy))


def _reads_source(stages: Sequence[Stage], pending: set[str]) -> bool:
    return any(stage.reads_source and stage.name in pending for stage in stages)


@dataclass
class _StageRunner:
    """The pending stages of a run, and what the finished ones measured."""

    context: StageContext
    stages: Sequence[Stage]
    pending: set[str]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.diagnostics["n_shards"] = self.context.run.plan.n_shards
        self._source_context: StageContext | None = None

    def run_all(self) -> None:
        """Run the pending stages in order, until none is pending.

        A stage that makes other artifacts than recorded makes later ones pending, and with them earlier ones whose
        artifacts they read and which were removed since: these run next.
        """
        runnable = {stage.name: (stage, stage.function) for stage in self.stages if stage.function is not None}
        unreported = set(runnable)
        while waiting := [name for name in runnable if name in unreported or name in self.pending]:
            self._run(*runnable[waiting[0]])
            unreported.discard(waiting[0])

    def _run(self, stage: Stage, function: StageFunction) -> None:
        """Run a stage if it is pending, remove what no later stage reads, and report its measurements."""
        started = time.monotonic()
        resumed = stage.name not in self.pending
        if not resumed:
            context = self._context_of(stage)
            self.context.emit(StageStarted(stage.name, stage.total(self.context.run), stage.unit))
            result = function(context, self.context.progress_of(stage.name))
            changed = self.context.workspace.record(
                stage.name, result.artifacts, time.monotonic() - started, self._later(stage), **result.facts
            )
            self.pending.discard(stage.name)
            if changed:
                self.pending |= pending_stages(self.stages, self.context.workspace.stages(), self.pending)
        if not _reads_source(self.stages, self.pending):
            self.context.workspace.file(SOURCE_COPY).unlink(missing_ok=True)
            self._source_context = None
        self._remove_unreferenced()
        facts = self.context.workspace.recorded_facts(stage.name) or {}
        self.seconds[stage.name] = time.monotonic() - started
        self.diagnostics |= facts
        for name, value in facts.items():
            if isinstance(value, float):
                self.context.emit(Measured(name, value))
        self.context.emit(StageFinished(stage.name, self.seconds[stage.name], resumed))

    def _context_of(self, stage: Stage) -> StageContext:
        """Return what a stage works with; one that reads the source has one that all workers can open."""
        if not stage.reads_source:
            return replace(self.context, emit=self._emit)
        if self._source_context is None:
            self._source_context = _with_shared_source(replace(self.context, emit=self._emit))
        return self._source_context

    def _emit(self, event: Event) -> None:
        """Pass an event on; the first checkpoint makes what only the start of the layout reads superfluous."""
        if isinstance(event, CheckpointWritten):
            self._remove_unreferenced()
        self.context.emit(event)

    def _later(self, stage: Stage) -> list[str]:
        """Return the records of what is made from the artifacts of a stage: the later stages and the checkpoint."""
        later = self.stages[self.stages.index(stage) + 1 :]
        made = [other.name for other in later if other.function is not None]
        return [*made, CHECKPOINT] if made else []

    def _remove_unreferenced(self) -> None:
        if not self.context.keep_stages:
            self.context.workspace.prune(unreferenced_artifacts(self.stages, self.context.workspace, self.pending))
