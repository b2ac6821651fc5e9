"""What a run needs of memory and disk, computed from the table of stages."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from nomad_dask.pipeline.stage import Stage
from nomad_dask.pipeline.stages import stages_of_run
from nomad_dask.planning.plan import Plan
from nomad_dask.planning.resources import ResourceEstimate, StageResources

_MANIFEST_BYTES = 1 << 20


def estimate_resources(plan: Plan) -> ResourceEstimate:
    """Return what each stage of a plan needs, and the workspace in all."""
    stages = stages_of_run(plan.coarse_rows > 0, plan.keeps_lists)
    needs = tuple(
        StageResources(
            name=stage.name,
            disk_bytes=stage.resources.disk_bytes(plan),
            host_bytes=stage.resources.host_bytes(plan),
            device_bytes=0 if stage.resources.device_bytes is None else stage.resources.device_bytes(plan),
        )
        for stage in stages
    )
    models = {stage.name: stage.resources for stage in stages}
    return ResourceEstimate(plan, models, needs, _peak_disk_bytes(stages, plan))


def _peak_disk_bytes(stages: Sequence[Stage], plan: Plan) -> int:
    """Return the peak size of the workspace: what the current stage writes, and what is kept of those before it."""
    writers = [stage for stage in stages if stage.writes]
    peaks = []
    for i, current in enumerate(writers):
        kept = [stage for stage in writers[:i] if any(_may_read(reader, stage) for reader in stages[i:])]
        peaks.append(current.resources.disk_bytes(plan) + sum(_kept_bytes(stage, plan) for stage in kept))
    return max(peaks) + _MANIFEST_BYTES


def _kept_bytes(stage: Stage, plan: Plan) -> int:
    return (stage.resources.kept_disk_bytes or stage.resources.disk_bytes)(plan)


def _may_read(reader: Stage, writer: Stage) -> bool:
    patterns = (*reader.reads, *reader.start_reads)
    return any(fnmatchcase(pattern, written) for pattern in patterns for written in writer.writes)
