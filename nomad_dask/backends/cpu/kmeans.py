"""K-Means cells: Lloyd's rounds on a sample, in a tree of two levels, with no cell far too large.

scikit-learn's `KMeans` has neither the tree, without which assignment costs rows × cells, nor bounds on
the sizes of cells, which is what the neighbour search needs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.backends.base import CellTree
from nomad_dask.backends.cpu.threads import Threads

_ROUNDS = 8
_CHUNK = 4096
# With fewer cells than this one level is as quick.
_TREE_CELLS = 1024
# The children of this many nearest parents are looked at when a row is assigned.
_PARENTS_TRIED = 3
_TINY, _HUGE = 1 / 8, 4


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
    for round_ in range(_ROUNDS):
        labels = nearest(rows, centroids, pool)
        sums, counts = np.zeros((k, rows.shape[1])), np.zeros(k, np.int64)
        _add_up(rows, labels, sums, counts)
        centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        if round_ < _ROUNDS - 2:
            tiny = np.flatnonzero(counts < _TINY * n / k)
            largest = np.argsort(-counts, kind="stable")[: len(tiny)]
            for cell, large in zip(tiny, largest, strict=True):
                if counts[large] > 2:
                    centroids[cell] = rows[rng.choice(np.flatnonzero(labels == large))]
    return centroids


def _split_huge(
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


def fit_cells(sample: np.ndarray, n_cells: int, seed: int, pool: Threads) -> CellTree:
    """Return about `n_cells` cells of a sample (rows, n_dims) float32: more where cells had to be split."""
    rng = np.random.default_rng(seed)
    n = len(sample)
    n_cells = min(n_cells, n)
    # Distances are taken by products: far from the origin they would lose their digits.
    middle = sample.mean(axis=0)
    sample = sample - middle
    limit = max(_HUGE * n / n_cells, 2)
    if n_cells <= _TREE_CELLS:
        centroids = _split_huge(sample, _lloyd(sample, n_cells, rng, pool), limit, rng, pool) + middle
        parent = centroids.mean(axis=0, keepdims=True)
        return CellTree(centroids, parent, np.array([0, len(centroids)], np.int64))
    n_parents = round(np.sqrt(n_cells))
    some = sample[:: max(1, n // (n_parents * 256))]
    parents = _lloyd(some, n_parents, rng, pool)
    labels = nearest(sample, parents, pool)
    groups, kept = [], []
    for p in range(len(parents)):
        rows = sample[labels == p]
        if not len(rows):
            continue
        children = _lloyd(rows, max(1, round(n_cells * len(rows) / n)), rng, pool)
        groups.append(_split_huge(rows, children, limit, rng, pool))
        kept.append(p)
    offsets = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
    return CellTree(np.concatenate(groups) + middle, parents[kept] + middle, offsets)


def assign(rows: np.ndarray, cells: CellTree, pool: Threads) -> np.ndarray:
    """Return the cell (rows,) int32 of each row: the nearest among the children of the nearest parents."""
    middle = cells.parents.mean(axis=0)
    centroids, parents = cells.centroids - middle, cells.parents - middle
    if len(parents) <= _PARENTS_TRIED:
        return nearest(rows.astype(np.float32, copy=False) - middle, centroids, pool)
    labels = np.empty(len(rows), np.int32)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
    parent_norms = np.einsum("ij,ij->i", parents, parents) / 2

    def part(a: int, b: int) -> None:
        block = rows[a:b].astype(np.float32, copy=False) - middle
        far = parent_norms - block @ parents.T
        tried = np.argpartition(far, _PARENTS_TRIED - 1, axis=1)[:, :_PARENTS_TRIED].ravel()
        order = np.argsort(tried, kind="stable")
        edges = np.searchsorted(tried[order], np.arange(len(parents) + 1))
        best = np.full(b - a, np.inf, np.float32)
        found = labels[a:b]
        for p in range(len(parents)):
            asking = order[edges[p] : edges[p + 1]] // _PARENTS_TRIED
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
