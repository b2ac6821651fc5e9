"""The table of stages: the only place that knows the stages of a run.

Order, resume, removal of artifacts, progress, resources, time estimate and status are computed from it: a new stage
is one new row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nomad_dask.layout.schedule import make_schedule
from nomad_dask.partition.start_positions import GIVEN_POSITIONS
from nomad_dask.pipeline import stage_functions as functions
from nomad_dask.pipeline.stage import Stage, Workload
from nomad_dask.planning import disk_space, gpu_memory, host_memory
from nomad_dask.planning.resources import ResourceModel
from nomad_dask.planning.run_context import RunContext

# Below this number of cells, a row is compared with all centroids; above, with those of the cells' parents first.
_FLAT_CELLS = 1024


def _n_rows(run: RunContext) -> int:
    return run.plan.n_rows


def _n_epochs(run: RunContext) -> int:
    return make_schedule(run.params, run.plan.n_rows).n_epochs


def _cells_work(load: Workload) -> float:
    compared = load.n_cells if load.n_cells <= _FLAT_CELLS else 2 * math.sqrt(load.n_cells)
    return load.sample_rows * compared


STAGES: tuple[Stage, ...] = (
    Stage(
        name="sample",
        reads=(),
        writes=("sample/*", "input.npy"),
        resources=ResourceModel(
            host_memory.sample_host_bytes,
            disk_space.sample_disk_bytes,
            disk_space.kept_sample_disk_bytes,
            device_bytes=gpu_memory.block_device_bytes,
        ),
        total=_n_rows,
        function=functions.run_sample,
        work=lambda load: load.n_rows,
        reads_source=True,
    ),
    Stage(
        name="coarse",
        reads=("sample/*",),
        writes=("coarse/*",),
        resources=ResourceModel(host_memory.coarse_host_bytes, disk_space.coarse_disk_bytes),
        total=lambda run: run.plan.coarse_rows,
        function=functions.run_coarse,
        is_coarse=True,
    ),
    Stage(
        name="cells",
        reads=("sample/vectors.npy",),
        writes=("cells/*",),
        resources=ResourceModel(
            host_memory.cells_host_bytes,
            disk_space.cells_disk_bytes,
            device_bytes=gpu_memory.clustering_device_bytes,
        ),
        total=lambda run: run.plan.sample_rows,
        function=functions.run_cells,
        work=_cells_work,
    ),
    Stage(
        name="shards",
        reads=("cells/*", "sample/rescaling.npy", "sample/checksums.npy", GIVEN_POSITIONS, "sample/given_*"),
        writes=("runs/*", "shards/*"),
        resources=ResourceModel(
            host_memory.shards_host_bytes,
            disk_space.shards_disk_bytes,
            disk_space.kept_shards_disk_bytes,
            device_bytes=gpu_memory.block_device_bytes,
        ),
        total=_n_rows,
        function=functions.run_shards,
        work=lambda load: load.n_rows,
        reads_source=True,
    ),
    Stage(
        name="neighbors",
        reads=(
            "cells/components.npy",
            "shards/*.vectors.npy",
            "shards/*.cell_offsets.npy",
            "shards/*.centroids.npy",
            "shards/*.rows.npy",
            "shards/*.given_*.npy",
            "graph/*.out_*.npy",
        ),
        writes=("neighbor_lists/*", "graph/*", "lists/*"),
        resources=ResourceModel(host_memory.neighbors_host_bytes, disk_space.neighbors_disk_bytes, smaller_by="shards"),
        total=_n_rows,
        function=functions.run_neighbors,
        work=lambda load: load.n_rows * load.slowdown,
    ),
    Stage(
        name="layout",
        reads=(
            "shards/*.cell_offsets.npy",
            "shards/*.centroids.npy",
            "graph/*.indptr.npy",
            "graph/*.indices.npy",
            "graph/*.weights.npy",
            "graph/*.weight_codes.npy",
            "graph/*.conditional_p.npy",
            "graph/*.patch_*.npy",
            "graph/*.cross_*.npy",
            "layout/*",
        ),
        start_reads=("cells/*", "shards/*.rows.npy", "shards/*.start.npy"),
        coarse_start_reads=("coarse/*", "shards/*.rows.npy", "shards/*.vectors.npy"),
        writes=("layout/*",),
        resources=ResourceModel(
            host_memory.layout_host_bytes,
            disk_space.layout_disk_bytes,
            device_bytes=gpu_memory.layout_stage_device_bytes,
            smaller_by="shards and workers",
        ),
        total=_n_epochs,
        unit="epochs",
        function=functions.run_layout,
        work=lambda load: load.n_rows * load.n_epochs,
    ),
    # The positions are collected into the map, and new rows are placed by cells and axes. The small files of the sample
    # are kept too: without them, a damaged shard could not be made again without another pass over the source.
    Stage(
        name="map",
        reads=(
            "shards/*.rows.npy",
            "shards/*.cell_offsets.npy",
            "cells/*",
            "layout/*",
            "sample/rescaling.npy",
            "sample/checksums.npy",
        ),
        writes=(),
        resources=ResourceModel(host_memory.map_host_bytes, disk_space.map_disk_bytes),
        total=_n_rows,
    ),
    # What a model keeps is linked into its directory, beside which the positions are written.
    Stage(
        name="model",
        reads=("cells/*", "sample/rescaling.npy", "shards/*", "lists/*", "layout/*"),
        writes=(),
        resources=ResourceModel(host_memory.map_host_bytes, disk_space.map_disk_bytes),
        total=_n_rows,
        is_model=True,
    ),
)


def stages_of_run(has_coarse_map: bool, has_model: bool = False) -> Sequence[Stage]:
    """Return the stages of a run in order, with the `start_reads` of its kind of start."""
    stages = [stage for stage in STAGES if has_model or not stage.is_model]
    if has_coarse_map:
        return [replace(stage, start_reads=stage.coarse_start_reads) for stage in stages]
    return [stage for stage in stages if not stage.is_coarse]


def artifact_folders() -> dict[str, set[str]]:
    """Return the folders that each stage writes to."""
    return {stage.name: {pattern.split("/")[0] for pattern in stage.writes if "/" in pattern} for stage in STAGES}
