"""Principal axes and K-Means cells, fitted to the sample, and the assignment of cells to shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nomad_dask.backends.data import CellTree, PrincipalAxes
from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.cluster import worker_backend
from nomad_dask.partition.axes import fit_axes, read_blocks
from nomad_dask.partition.kmeans_convergence import kmeans_convergence
from nomad_dask.partition.parents import Parents
from nomad_dask.partition.sample_neighbors import sample_neighbors
from nomad_dask.partition.shard_assignment import assign_cells
from nomad_dask.partition.start_positions import StartPositions, mds_start, principal_start
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder

# Rows of the sample, and neighbors of each, that connect cells.
_N_QUERIES = 4000
_N_NEIGHBORS = 15

PARTITION_FILES = (
    "mean", "components", "std", "centroids", "parents", "offsets", "ranks", "shard_edges", "shifts", "shifted_std",
)  # fmt: skip


@dataclass(frozen=True)
class Partition:
    """How rows are assigned to cells, and cells to shards.

    Attributes
    ----------
    axes : PrincipalAxes
    cells : CellTree
        In the space of the axes.
    ranks : ndarray of int32 (n_cells,)
        Position of each cell when cells are sorted by shard.
    shard_offsets : ndarray of int64 (n_shards + 1,)
        Shard s owns the cells with ranks ``shard_offsets[s]`` to ``shard_offsets[s + 1]``.
    start : StartPositions
        Of the cells in the order of `cells`.
    """

    axes: PrincipalAxes
    cells: CellTree
    ranks: np.ndarray
    shard_offsets: np.ndarray
    start: StartPositions


def fit_cells_stage(run: RunContext, parents: Parents | None = None) -> tuple[list[str], dict[str, Any]]:
    """Fit the partition to the sample and write it under ``cells/``. Runs on one worker.

    Parameters
    ----------
    run : RunContext
    parents : Parents, optional
        Of the cells. By default, axes and parents are fitted too.

    Returns
    -------
    names : list of str
        Artifacts.
    facts : dict
        See `kmeans_convergence`.
    """
    plan, params = run.plan, run.params
    sample = RowFile.open(run.file("sample/vectors.npy"))
    with worker_backend(run.device, run.host_threads) as backend:
        axes = fit_axes(run, backend, sample) if parents is None else parents.axes
        coordinates = np.concatenate(
            [
                backend.project(to_float32(block, params.metric), axes)
                for _, block in read_blocks(sample, plan.sample_rows)
            ]
        )
        given = None if parents is None else parents.centroids
        cells = backend.fit_cells(coordinates, plan.n_cells, params.random_state, given)
        labels = backend.assign(coordinates, cells)
        convergence = kmeans_convergence(coordinates, labels, cells.centroids)
        if axes.std == 0 and plan.sample_rows > 1:
            convergence["n_equal_rows"] = plan.sample_rows
        start = (
            mds_start(backend, coordinates, labels, cells, axes, params.n_components)
            if params.init == "mds"
            else principal_start(len(cells.centroids), params.n_components, axes)
        )
        shards = _assign_cells(coordinates, labels, cells.centroids, plan.n_shards)
    order = np.argsort(shards, kind="stable")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))
    shard_offsets = np.searchsorted(shards[order], np.arange(plan.n_shards + 1)).astype(np.int64)
    partition = Partition(axes, cells, ranks, shard_offsets, start)
    return _save_partition(ArtifactFolder(run.workspace), partition), convergence


def _assign_cells(sample: np.ndarray, labels: np.ndarray, centroids: np.ndarray, n_shards: int) -> np.ndarray:
    """Return the shard (n_cells,) int64 of each cell, from cell sizes and neighbors in the sample."""
    n_cells = len(centroids)
    if n_shards == 1:
        return np.zeros(n_cells, np.int64)
    queries = np.arange(0, len(sample), max(1, len(sample) // _N_QUERIES))
    neighbors = sample_neighbors(sample, labels, centroids, queries, _N_NEIGHBORS)
    pairs = np.repeat(labels[queries], neighbors.shape[1]), labels[neighbors.ravel()]
    edges = sp.coo_array((np.ones(len(pairs[0]), np.float32), pairs), shape=(n_cells, n_cells)).tocsr()
    return assign_cells(centroids, np.bincount(labels, minlength=n_cells), (edges + edges.T).tocsr(), n_shards)


def _save_partition(folder: ArtifactFolder, partition: Partition) -> list[str]:
    """Write a partition and return the names of its artifacts."""
    axes, cells = partition.axes, partition.cells
    arrays: tuple[np.ndarray, ...] = (
        axes.mean, axes.components, np.array(axes.std),
        cells.centroids, cells.parents, cells.offsets, partition.ranks, partition.shard_offsets,
        partition.start.shifts, np.array(partition.start.std),
    )  # fmt: skip
    names = [f"cells/{name}.npy" for name in PARTITION_FILES]
    for name, array in zip(names, arrays, strict=True):
        folder.save(name, array)
    return names


def load_partition(run: RunContext) -> Partition:
    """Read the partition from the workspace."""
    mean, components, std, centroids, parents, offsets, ranks, shard_offsets, shifts, shifted_std = (
        np.load(run.file(f"cells/{name}.npy")) for name in PARTITION_FILES
    )
    axes, cells = PrincipalAxes(mean, components, float(std)), CellTree(centroids, parents, offsets)
    return Partition(axes, cells, ranks, shard_offsets, StartPositions(shifts, float(shifted_std)))
