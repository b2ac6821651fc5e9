"""Axes and cells from the sample, and which shard owns which cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nomad_dask.backends.base import CellTree, PrincipalAxes
from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.backends.select import backend_of_worker
from nomad_dask.cluster import worker_threads
from nomad_dask.partition.shard_assignment import assign_cells
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.workspace import Workspace

_EDGE_QUERIES = 4000
_EDGE_NEIGHBORS = 15
# Cells around a query that are looked through, more than neighbours wanted as each holds a row at least; and queries
# that look together.
_EDGE_CELLS = 16
_EDGE_BLOCK = 8
_AXES_ROWS = 10_000
# The sample is read by blocks; a multiple of what backends work on at once, so that blocks round like the whole.
_BLOCK_ROWS = 1 << 15
_SETTLE_CELLS = 256
_SETTLED = 0.25
_ROUNDING = 1e-9

FILES = ("mean", "components", "std", "centroids", "parents", "offsets", "ranks", "shard_edges")


@dataclass(frozen=True)
class Partition:
    """How rows find their cell and shard.

    Attributes
    ----------
    axes : Axes
    cells : Cells
        In the space of the axes.
    ranks : ndarray of int32 (n_cells,)
        Number of each cell when cells are sorted by shard.
    shard_edges : ndarray of int64 (n_shards + 1,)
        Shard s owns the cells ranked ``shard_edges[s]`` to ``shard_edges[s + 1]``.
    """

    axes: PrincipalAxes
    cells: CellTree
    ranks: np.ndarray
    shard_edges: np.ndarray


def fit_cells_stage(run: RunContext) -> tuple[list[str], dict[str, Any]]:
    """Make the partition from the sample and write it under ``cells/``. Runs on one worker.

    Returns
    -------
    names : list of str
        Artifacts.
    facts : dict
        Whether K-Means has settled, as `kmeans_convergence` tells.
    """
    plan, params = run.plan, run.params
    workspace = Workspace(run.workspace)
    sample = RowFile.open(run.file("sample/vectors.npy"))
    blocks = [(a, min(a + _BLOCK_ROWS, plan.sample_rows)) for a in range(0, plan.sample_rows, _BLOCK_ROWS)]
    step = max(1, plan.sample_rows // _AXES_ROWS)
    with backend_of_worker(run.device, worker_threads(run.host_threads)) as backend:
        some = np.concatenate([sample.read(a, b)[-a % step :: step].copy() for a, b in blocks])
        axes = backend.fit_axes(
            to_float32(some, params.metric), max(plan.n_axes, params.n_components), params.random_state
        )
        coordinates = np.concatenate(
            [backend.project(to_float32(sample.read(a, b), params.metric), axes) for a, b in blocks]
        )
        cells = backend.fit_cells(coordinates, plan.n_cells, params.random_state)
        labels = backend.assign(coordinates, cells)
        facts = kmeans_convergence(coordinates, labels, cells.centroids)
        shards = _shards(labels, coordinates, cells, plan.n_shards)
    order = np.argsort(shards, kind="stable")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))
    edges = np.searchsorted(shards[order], np.arange(plan.n_shards + 1)).astype(np.int64)
    arrays: tuple[np.ndarray, ...] = (
        axes.mean, axes.components, np.array(axes.std),
        cells.centroids, cells.parents, cells.offsets, ranks, edges,
    )  # fmt: skip
    for name, array in zip(FILES, arrays, strict=True):
        workspace.save(f"cells/{name}.npy", array)
    return [f"cells/{name}.npy" for name in FILES], facts


def kmeans_convergence(rows: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> dict[str, Any]:
    """Measure how far one more round of K-Means would move the centroids.

    Parameters
    ----------
    rows : ndarray of float32 (n, axes)
    labels : ndarray of int32 (n,)
        Cell of each row.
    centroids : ndarray of float32 (cells, axes)

    Returns
    -------
    dict
        ``kmeans_shift``: root mean square, over the rows, of their centroid's shift in one more round, in units of
        their root mean square distance from it. ``kmeans_converged``: whether that is below 0.25, where another
        round lowers that distance by less than a thirtieth.
    """
    n_cells = len(centroids)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=n_cells)
    ends = np.cumsum(counts)
    moved = spread = 0.0
    for a in range(0, n_cells, _SETTLE_CELLS):
        b = min(a + _SETTLE_CELLS, n_cells)
        members = order[ends[a] - counts[a] : ends[b - 1]]
        here = labels[members]
        gaps = rows[members] - centroids[here]
        spread += float(np.einsum("ij,ij->", gaps, gaps, dtype=np.float64))
        filled = np.flatnonzero(counts[a:b]) + a
        if len(filled):
            sums = np.add.reduceat(gaps, np.searchsorted(here, filled), axis=0, dtype=np.float64)
            moved += float((np.einsum("ij,ij->i", sums, sums) / counts[filled]).sum())
    # Rows that are all in one place, or each in a cell of its own, leave nothing but rounding.
    whole = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    shift = float(np.sqrt(moved / spread)) if spread > _ROUNDING * whole else 0.0
    return {"kmeans_shift": shift, "kmeans_converged": shift < _SETTLED}


def load_partition(run: RunContext) -> Partition:
    """Read the partition back."""
    mean, components, std, centroids, parents, offsets, ranks, edges = (
        np.load(run.file(f"cells/{name}.npy")) for name in FILES
    )
    return Partition(PrincipalAxes(mean, components, float(std)), CellTree(centroids, parents, offsets), ranks, edges)


def _shards(labels: np.ndarray, sample: np.ndarray, cells: CellTree, n_shards: int) -> np.ndarray:
    """Return the shard of each cell, from the sample's sizes and neighbours."""
    n_cells = len(cells.centroids)
    if n_shards == 1:
        return np.zeros(n_cells, np.int64)
    queries = np.arange(0, len(sample), max(1, len(sample) // _EDGE_QUERIES))
    neighbors = sample_neighbors(sample, labels, cells.centroids, queries, _EDGE_NEIGHBORS)
    ends = np.repeat(labels[queries], neighbors.shape[1]), labels[neighbors.ravel()]
    shared = sp.coo_array((np.ones(len(ends[0]), np.float32), ends), shape=(n_cells, n_cells)).tocsr()
    return assign_cells(cells.centroids, np.bincount(labels, minlength=n_cells), (shared + shared.T).tocsr(), n_shards)


def sample_neighbors(
    sample: np.ndarray, labels: np.ndarray, centroids: np.ndarray, queries: np.ndarray, k: int
) -> np.ndarray:
    """Return near rows of the sample for a few of its rows: the nearest among those of the cells around each.

    Parameters
    ----------
    sample : ndarray of float32 (n, axes)
    labels : ndarray of int32 (n,)
        Cell of each row.
    centroids : ndarray of float32 (cells, axes)
    queries : ndarray of int64 (m,)
        Rows to look for, themselves excluded.
    k : int

    Returns
    -------
    ndarray of int64 (m, min(k, n - 1))
        In no order.
    """
    n, n_cells = len(sample), len(centroids)
    k = min(k, n - 1)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=n_cells)
    ends = np.cumsum(counts)
    # As many cells as hold some times the rows that are wanted, on the whole; empty ones hold none.
    n_near = min(n_cells, max(_EDGE_CELLS, -(-4 * k * n_cells // n)))
    middle = sample.mean(axis=0)
    centered, centers = sample - middle, centroids - middle
    half_norms, half_centers = (np.einsum("ij,ij->i", rows, rows) / 2 for rows in (centered, centers))
    half_centers[counts == 0] = np.inf
    found = np.empty((len(queries), k), np.int64)
    # Those of one cell, or of cells made of one parent, ask in the same places.
    turns = np.argsort(labels[queries], kind="stable")
    for a in range(0, len(queries), _EDGE_BLOCK):
        turn = turns[a : a + _EDGE_BLOCK]
        block = centered[queries[turn]]
        gaps = half_centers - block @ centers.T
        near = np.unique(np.argpartition(gaps, n_near - 1, axis=1)[:, :n_near])
        rows = np.concatenate([order[ends[c] - counts[c] : ends[c]] for c in near])
        gaps = half_norms[rows] - block @ centered[rows].T
        gaps[rows == queries[turn][:, None]] = np.inf
        found[turn] = rows[np.argpartition(gaps, k - 1, axis=1)[:, :k]]
    return found
