"""K-Means by Lloyd's algorithm on threads, and the assignment of rows to the cells of a tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.base import CellTree
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED, TINY
from nomad_dask.utils.threads import Threads

_N_ITERATIONS = 8
_CHUNK = 4096
# Up to this many cells one level is as quick.
MAX_FLAT_CELLS = 1024


@njit(nogil=True, cache=True)
def _add_up(rows, labels, sums, counts):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        c = labels[i]
        counts[c] += 1
        for j in range(rows.shape[1]):
            sums[c, j] += rows[i, j]


def nearest(rows: np.ndarray, centroids: np.ndarray, pool: Threads) -> np.ndarray:
    """Return the index (rows,) int32 of the nearest centroid of each row."""
    labels = np.empty(len(rows), np.int32)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2

    def part(a: int, b: int) -> None:
        labels[a:b] = (half_norms - rows[a:b] @ centroids.T).argmin(axis=1)

    pool.run(part, len(rows), _CHUNK)
    return labels


def _lloyd(rows: np.ndarray, k: int, rng: np.random.Generator, pool: Threads) -> np.ndarray:
    """Return up to `k` centroids; cells that stay tiny are re-seeded inside the largest ones."""
    n = len(rows)
    k = min(k, n)
    centroids = rows[np.sort(rng.choice(n, k, replace=False))].copy()
    for iteration in range(_N_ITERATIONS):
        labels = nearest(rows, centroids, pool)
        sums, counts = np.zeros((k, rows.shape[1])), np.zeros(k, np.int64)
        _add_up(rows, labels, sums, counts)
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
    """Split cells of more than `limit` rows in two, again and again, while their rows differ."""
    labels = nearest(rows, centroids, pool)
    cells = [np.flatnonzero(labels == c) for c in range(len(centroids))]
    done: list[np.ndarray] = []
    work = [(centroids[c], members) for c, members in enumerate(cells)]
    while work:
        center, members = work.pop()
        if len(members) <= limit:
            done.append(center)
            continue
        halves = _lloyd(rows[members], 2, rng, pool)
        sides = nearest(rows[members], halves, pool)
        if len(halves) < 2 or not 0 < sides.sum() < len(members):
            done.append(center)  # rows that are all alike cannot be split by distance
            continue
        work += [(halves[0], members[sides == 0]), (halves[1], members[sides == 1])]
    return np.array(done, np.float32)


class _LloydClusterer:
    """K-Means by Lloyd's algorithm on threads; see `kmeans_tree.Clusterer`."""

    def __init__(self, rng: np.random.Generator, pool: Threads) -> None:
        self._rng, self._pool = rng, pool
        self.max_flat_cells = MAX_FLAT_CELLS

    def upload(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows themselves."""
        return rows

    def fit(self, rows: np.ndarray, k: int) -> np.ndarray:
        """Return up to `k` centroids."""
        return _lloyd(rows, k, self._rng, self._pool)

    def fit_bounded(self, rows: np.ndarray, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids: more where cells of over `max_rows` rows were split."""
        return _split_oversized(rows, self.fit(rows, k), max_rows, self._rng, self._pool)

    def groups(self, rows: np.ndarray, centroids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each centroid that is nearest to any row, with those rows."""
        labels = nearest(rows, centroids, self._pool)
        for parent in range(len(centroids)):
            members = rows[labels == parent]
            if len(members):
                yield parent, members


def fit_cells(sample: np.ndarray, n_cells: int, seed: int, pool: Threads) -> CellTree:
    """Return about `n_cells` cells of a sample (rows, n_dims) float32: more where cells had to be split."""
    return kmeans_tree.fit_cells(sample, n_cells, _LloydClusterer(np.random.default_rng(seed), pool))


def assign(rows: np.ndarray, cells: CellTree, pool: Threads) -> np.ndarray:
    """Return the cell (rows,) int32 of each row: the nearest among the children of the nearest parents."""
    middle = cells.parents.mean(axis=0)
    centroids, parents = cells.centroids - middle, cells.parents - middle
    if len(parents) <= PARENTS_TRIED:
        return nearest(rows.astype(np.float32, copy=False) - middle, centroids, pool)
    labels = np.empty(len(rows), np.int32)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
    parent_norms = np.einsum("ij,ij->i", parents, parents) / 2

    def part(a: int, b: int) -> None:
        block = rows[a:b].astype(np.float32, copy=False) - middle
        far = parent_norms - block @ parents.T
        tried = np.argpartition(far, PARENTS_TRIED - 1, axis=1)[:, :PARENTS_TRIED].ravel()
        order = np.argsort(tried, kind="stable")
        edges = np.searchsorted(tried[order], np.arange(len(parents) + 1))
        best = np.full(b - a, np.inf, np.float32)
        found = labels[a:b]
        for p in range(len(parents)):
            asking = order[edges[p] : edges[p + 1]] // PARENTS_TRIED
            if not len(asking):
                continue
            first, last = cells.offsets[p], cells.offsets[p + 1]
            gaps = half_norms[first:last] - block[asking] @ centroids[first:last].T
            at = gaps.argmin(axis=1)
            gap = gaps[np.arange(len(asking)), at]
            better = gap < best[asking]
            best[asking[better]] = gap[better]
            found[asking[better]] = first + at[better]

    pool.run(part, len(rows), _CHUNK)
    return labels
