"""The model of a finished run: what later questions need of its workspace, in a directory of its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.data import PrincipalAxes
from nomad_dask.layout.checkpoint import checkpoint_file
from nomad_dask.neighbors.cell_catalog import read_cell_catalog
from nomad_dask.neighbors.kept_lists import KEPT_FOLDER
from nomad_dask.partition.cell_tree import tree_of_cells
from nomad_dask.pipeline.collect import Layout
from nomad_dask.sources.base import Source
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.model_folder import new_generation
from nomad_dask.storage.workspace import Workspace

# Artifacts that a model shares with its run; they are never written to.
_SHARED = (
    *(f"cells/{name}.npy" for name in ("mean", "components", "std")),
    "sample/rescaling.npy",
    *(f"shards/*.{name}.npy" for name in ("vectors", "rows", "cell_offsets", "centroids")),
    f"{KEPT_FOLDER}/*",
)


def position_file(shard: int) -> str:
    """Return the array of a model with the positions (n_rows, dim) float32 of a shard's rows."""
    return f"positions/{shard:04d}.npy"


def write_model(path: Path, workspace: Workspace, layout: Layout, source: Source) -> None:
    """Write the model of a run whose stages are finished and have kept its neighbor lists."""
    checkpoint = workspace.recorded_facts(CHECKPOINT)
    assert checkpoint is not None  # noqa: S101 - a finished layout has one
    about = _describe(workspace, layout, source, checkpoint)
    with hold_lock(path), new_generation(path, about) as generation:
        for record in workspace.stages().values():
            for name, artifact in record.artifacts.items():
                if any(fnmatchcase(name, pattern) for pattern in _SHARED):
                    generation.link(name, workspace.file(name), artifact)
        dim = layout.positions.shape[1]
        for shard in range(len(checkpoint["z"])):
            state = workspace.load(checkpoint_file(checkpoint["epoch"], shard), mmap=True)
            generation.add(position_file(shard), np.ascontiguousarray(state[:, :dim]))
        for name, array in _tree(workspace, len(checkpoint["z"])).items():
            generation.add(f"cells/{name}.npy", array)


def _tree(workspace: Workspace, n_shards: int) -> dict[str, np.ndarray]:
    """Return the tree by which new rows find the cells of the shards, by the names of its arrays."""
    mean, components, std, parents = (
        workspace.load(f"cells/{name}.npy") for name in ("mean", "components", "std", "parents")
    )
    centroids = read_cell_catalog(workspace.file, n_shards).centroids
    tree, numbers = tree_of_cells(centroids, PrincipalAxes(mean, components, float(std)), parents)
    return {"centroids": tree.centroids, "parents": tree.parents, "offsets": tree.offsets, "numbers": numbers}


def _describe(workspace: Workspace, layout: Layout, source: Source, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest of the model says beside its arrays."""
    return layout.metadata | {
        "shape": [source.n_rows, source.n_dims],
        "dtype": str(source.dtype),
        "n_shards": len(checkpoint["z"]),
        "partition_sum": float(sum(checkpoint["z"])),
    }
