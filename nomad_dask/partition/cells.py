"""Axes and cells from the sample, and which shard owns which cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.base import Axes, Backend, Cells
from nomad_dask.backends.choose import backend_of_worker
from nomad_dask.backends.vectors import working_rows
from nomad_dask.cluster import worker_threads
from nomad_dask.partition.shards import assign_cells
from nomad_dask.plan import Run
from nomad_dask.workspace import Workspace

_EDGE_QUERIES = 4000
_EDGE_NEIGHBORS = 15
_AXES_ROWS = 10_000

FILES = ("mean", "components", "deviation", "centroids", "parents", "offsets", "ranks", "shard_edges")


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

    axes: Axes
    cells: Cells
    ranks: np.ndarray
    shard_edges: np.ndarray


def make(run: Run) -> list[str]:
    """Make the partition from the sample and write it under ``cells/``. Runs on one worker."""
    plan, params = run.plan, run.params
    workspace = Workspace(run.workspace)
    sample = working_rows(np.load(run.file("sample/vectors.npy"), mmap_mode="r"), params.metric)
    with backend_of_worker(run.device, worker_threads()) as backend:
        step = max(1, len(sample) // _AXES_ROWS)
        axes = backend.fit_axes(sample[::step], max(plan.n_axes, params.n_components), params.seed)
        coordinates = backend.project(sample, axes)
        cells = backend.fit_cells(coordinates, plan.n_cells, params.seed)
        shards = _shards(backend, coordinates, cells, plan.n_shards)
    order = np.argsort(shards, kind="stable")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))
    edges = np.searchsorted(shards[order], np.arange(plan.n_shards + 1)).astype(np.int64)
    arrays: tuple[np.ndarray, ...] = (
        axes.mean, axes.components, np.array(axes.deviation),
        cells.centroids, cells.parents, cells.offsets, ranks, edges,
    )  # fmt: skip
    for name, array in zip(FILES, arrays, strict=True):
        workspace.save(f"cells/{name}.npy", array)
    return [f"cells/{name}.npy" for name in FILES]


def load(run: Run) -> Partition:
    """Read the partition back."""
    mean, components, deviation, centroids, parents, offsets, ranks, edges = (
        np.load(run.file(f"cells/{name}.npy")) for name in FILES
    )
    return Partition(Axes(mean, components, float(deviation)), Cells(centroids, parents, offsets), ranks, edges)


def _shards(backend: Backend, sample: np.ndarray, cells: Cells, n_shards: int) -> np.ndarray:
    """Return the shard of each cell, from the sample's sizes and neighbours."""
    n_cells = len(cells.centroids)
    if n_shards == 1:
        return np.zeros(n_cells, np.int64)
    labels = backend.assign(sample, cells)
    sizes = np.bincount(labels, minlength=n_cells)
    queries = np.arange(0, len(sample), max(1, len(sample) // _EDGE_QUERIES))
    neighbors = sample_neighbors(sample, queries, _EDGE_NEIGHBORS)
    shared = np.zeros((n_cells, n_cells), np.float32)
    np.add.at(shared, (np.repeat(labels[queries], neighbors.shape[1]), labels[neighbors.ravel()]), 1)
    return assign_cells(cells.centroids, sizes, shared + shared.T, n_shards)


def sample_neighbors(sample: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the `k` nearest rows (queries, k) of a few rows of the sample within the sample, in no order."""
    k = min(k, len(sample) - 1)
    found = np.empty((len(queries), k), np.int64)
    middle = sample.mean(axis=0)
    centered = sample - middle
    half_norms = np.einsum("ij,ij->i", centered, centered) / 2
    for a in range(0, len(queries), 512):
        rows = queries[a : a + 512]
        gaps = half_norms - centered[rows] @ centered.T
        gaps[np.arange(len(rows)), rows] = np.inf
        found[a : a + 512] = np.argpartition(gaps, k - 1, axis=1)[:, :k]
    return found
