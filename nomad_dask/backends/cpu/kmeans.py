"""K-Means by Lloyd's algorithm on threads, and the assignment of rows to the cells of a tree."""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.cpu.cell_search_kernels import insert
from nomad_dask.backends.data import CellTree
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, TINY, share_cells
from nomad_dask.utils.threads import Threads

_N_ITERATIONS = 8
_CHUNK = 4096
# In a tree the rows of a chunk are compared with the children of one parent after another: few of them with each.
_TREE_CHUNK = 1 << 14


@njit(nogil=True, cache=True)
def _sum_cells(rows, labels, sums, counts):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        c = labels[i]
        counts[c] += 1
        for j in range(rows.shape[1]):
            sums[c, j] += rows[i, j]


def nearest(rows: np.ndarray, centroids: np.ndarray, pool: Threads) -> np.ndarray:
    """Return the index (rows,) int32 of the nearest centroid of each row."""
    labels = np.empty(len(rows), np.int32)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2

    def find_nearest(start: int, stop: int) -> None:
        labels[start:stop] = (half_norms - rows[start:stop] @ centroids.T).argmin(axis=1)

    pool.run(find_nearest, len(rows), _CHUNK)
    return labels


def _lloyd(rows: np.ndarray, k: int, rng: np.random.Generator, pool: Threads) -> np.ndarray:
    """Return up to `k` centroids; cells that stay tiny are re-seeded in the largest ones."""
    n = len(rows)
    k = min(k, n)
    centroids = rows[np.sort(rng.choice(n, k, replace=False))].copy()
    for iteration in range(_N_ITERATIONS):
        labels = nearest(rows, centroids, pool)
        sums, counts = np.zeros((k, rows.shape[1])), np.zeros(k, np.int64)
        _sum_cells(rows, labels, sums, counts)
        centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        if iteration < _N_ITERATIONS - 2:
            tiny = np.flatnonzero(counts < TINY * n / k)
            largest = np.argsort(-counts, kind="stable")[: len(tiny)]
            for cell, large in zip(tiny, largest, strict=True):
                if counts[large] > 2:
                    centroids[cell] = rows[rng.choice(np.flatnonzero(labels == large))]
    return centroids


def _split_oversized(
    rows: np.ndarray, centroids: np.ndarray, limit: float, rng: np.random.Generator, pool: Threads
) -> np.ndarray:
    """Split cells of more than `limit` rows in two, repeatedly, unless their rows are identical."""
    labels = nearest(rows, centroids, pool)
    cells = [np.flatnonzero(labels == c) for c in range(len(centroids))]
    done: list[np.ndarray] = []
    work = [(centroids[c], members) for c, members in enumerate(cells)]
    while work:
        center, members = work.pop()
        if len(members) <= limit:
            done.append(center)
            continue
        children = _lloyd(rows[members], 2, rng, pool)
        child_of_row = nearest(rows[members], children, pool)
        if len(children) < 2 or not 0 < child_of_row.sum() < len(members):
            done.append(center)  # identical rows cannot be split by distance
            continue
        work += [(children[0], members[child_of_row == 0]), (children[1], members[child_of_row == 1])]
    return np.array(done, np.float32)


class _LloydClusterer:
    """K-Means by Lloyd's algorithm on threads; see `kmeans_tree.Clusterer`."""

    def __init__(self, rng: np.random.Generator, pool: Threads) -> None:
        self._rng, self._pool = rng, pool

    def center(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows relative to their mean, and the mean."""
        mean = sample.mean(axis=0)
        return sample - mean, mean

    def fit(self, rows: np.ndarray, k: int) -> np.ndarray:
        """Return up to `k` centroids."""
        return _lloyd(rows, k, self._rng, self._pool)

    def fit_bounded(self, rows: np.ndarray, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids: more where cells of over `max_rows` rows were split."""
        return _split_oversized(rows, self.fit(rows, k), max_rows, self._rng, self._pool)

    def fit_children(self, rows: np.ndarray, parents: np.ndarray, n_cells: int, max_rows: float) -> list[np.ndarray]:
        """Return the centroids below each parent, about `n_cells` in all."""
        labels = nearest(rows, parents, self._pool)
        children = [np.empty((0, rows.shape[1]), np.float32)] * len(parents)
        for parent in np.unique(labels).tolist():
            members = rows[labels == parent]
            children[parent] = self.fit_bounded(members, share_cells(n_cells, len(members), len(rows)), max_rows)
        return children


def fit_cells(
    sample: np.ndarray, n_cells: int, seed: int, pool: Threads, parents: np.ndarray | None = None
) -> CellTree:
    """Return about `n_cells` cells of a sample; see `kmeans_tree.fit_cells`."""
    return kmeans_tree.fit_cells(sample, n_cells, _LloydClusterer(np.random.default_rng(seed), pool), parents)


def assign(rows: np.ndarray, cells: CellTree, pool: Threads) -> np.ndarray:
    """Return the cell (rows,) int32 of each row: the nearest among the children of the nearest parents."""
    center = cells.parents.mean(axis=0)
    centroids, parents = cells.centroids - center, cells.parents - center
    if len(parents) <= PARENTS_TRIED:
        return nearest(rows.astype(np.float32, copy=False) - center, centroids, pool)
    centered = CellTree(centroids, parents, cells.offsets)
    labels = np.empty(len(rows), np.int32)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
    half_parent_norms = np.einsum("ij,ij->i", parents, parents) / 2

    def assign_chunk(start: int, stop: int) -> None:
        block = rows[start:stop].astype(np.float32, copy=False) - center
        labels[start:stop] = _nearest_in_tree(block, centered, half_norms, half_parent_norms)

    pool.run(assign_chunk, len(rows), _TREE_CHUNK)
    return labels


@njit(nogil=True, cache=True)
def _smallest(values, indices):  # type: ignore[no-untyped-def]
    """Write the indices of the smallest values of each row; NumPy's partition takes as long as the products."""
    k = indices.shape[1]
    smallest = np.empty(k, np.float32)
    for i in range(values.shape[0]):
        smallest[:] = np.inf
        for j in range(values.shape[1]):
            if values[i, j] < smallest[k - 1]:
                insert(smallest, indices[i], values[i, j], j)


def _nearest_in_tree(
    rows: np.ndarray, cells: CellTree, half_norms: np.ndarray, half_parent_norms: np.ndarray
) -> np.ndarray:
    """Return the nearest cell (rows,) int32 among the children of each row's nearest parents."""
    labels = np.zeros(len(rows), np.int32)
    best = np.full(len(rows), np.inf, np.float32)
    to_parents = half_parent_norms - rows @ cells.parents.T
    tried = np.zeros((len(rows), PARENTS_TRIED), np.int32)
    _smallest(to_parents, tried)
    order = np.argsort(tried, axis=None, kind="stable")
    offsets = np.searchsorted(tried.ravel()[order], np.arange(len(cells.parents) + 1))
    for parent in range(len(cells.parents)):
        members = order[offsets[parent] : offsets[parent + 1]] // PARENTS_TRIED
        if not len(members):
            continue
        first, last = cells.offsets[parent], cells.offsets[parent + 1]
        distances = half_norms[first:last] - rows[members] @ cells.centroids[first:last].T
        child = distances.argmin(axis=1)
        distance = distances[np.arange(len(members)), child]
        nearer = distance < best[members]
        best[members[nearer]] = distance[nearer]
        labels[members[nearer]] = first + child[nearer]
    return labels
