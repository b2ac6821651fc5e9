"""Which stages have to run, and which artifacts no stage reads any more; both follow from the table of stages."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from nomad_dask.errors import NomadWarning
from nomad_dask.pipeline.stage import Stage
from nomad_dask.storage.manifest import CHECKPOINT, StageRecord
from nomad_dask.storage.workspace import Workspace


def reads(stage: Stage, artifact: str, has_checkpoint: bool) -> bool:
    """Return whether a stage reads an artifact.

    Parameters
    ----------
    stage : Stage
    artifact : str
        Name of the artifact.
    has_checkpoint : bool
        Whether there is a checkpoint already, from which the stage would resume.
    """
    patterns = stage.reads if has_checkpoint else stage.reads + stage.start_reads
    return any(fnmatchcase(artifact, pattern) for pattern in patterns)


def find_damage(workspace: Workspace) -> set[str]:
    """Return the recorded stages with a damaged artifact, and warn of each; a damaged checkpoint is dropped."""
    damaged = set()
    for stage in workspace.stages():
        damage = list(workspace.damage(stage))
        if not damage:
            continue
        damaged.add(stage)
        more = f", and {len(damage) - 1} more" if len(damage) > 1 else ""
        warnings.warn(
            f"The workspace {workspace.path} is damaged: {damage[0]}{more}. The stage {stage!r} is run again.",
            NomadWarning,
            stacklevel=2,
        )
        if stage == CHECKPOINT:
            workspace.drop_stage(stage)
    return damaged


def pending_stages(
    stages: Sequence[Stage], records: Mapping[str, StageRecord], damaged: Collection[str] = ()
) -> set[str]:
    """Return the names of the stages that have to run.

    These are the stages that never finished, those with a damaged artifact, and those that made an artifact which
    such a stage reads and which was removed since.

    Parameters
    ----------
    stages : sequence of Stage
        Stages of the run.
    records : mapping of str to StageRecord
        Recorded stages of the workspace.
    damaged : collection of str
        Names of the recorded stages with a damaged artifact.
    """
    has_checkpoint = CHECKPOINT in records and CHECKPOINT not in damaged
    pending = set(damaged) - {CHECKPOINT}
    for stage in stages:
        if stage.function is not None and (stage.name not in records or (stage.has_checkpoints and not has_checkpoint)):
            pending.add(stage.name)
    for stage in reversed(stages):
        if stage.name in pending or stage.function is None:
            pending |= {
                maker
                for maker, record in records.items()
                for artifact in record.released
                if maker != CHECKPOINT and reads(stage, artifact, has_checkpoint)
            }
    return pending


def unreferenced_artifacts(stages: Sequence[Stage], workspace: Workspace, pending: Collection[str]) -> list[str]:
    """Return the names of the artifacts that no pending stage reads.

    Parameters
    ----------
    stages : sequence of Stage
        Stages of the run.
    workspace : Workspace
    pending : collection of str
        Stages that have still to run, the current one among them.
    """
    has_checkpoint = workspace.recorded_facts(CHECKPOINT) is not None
    readers = [stage for stage in stages if stage.name in pending or stage.function is None]
    return [
        artifact
        for record in workspace.stages().values()
        for artifact in record.artifacts
        if not any(reads(stage, artifact, has_checkpoint) for stage in readers)
    ]
