"""Cells to shards: near cells together, sizes balanced, few neighbours cut apart."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

# How far a shard may be from the mean size.
_OVER, _UNDER = 1.10, 0.80
_MAX_MOVES_PER_CELL = 20


def assign_cells(
    centroids: np.ndarray, sizes: np.ndarray, shared: np.ndarray | sp.csr_array | None, n_shards: int
) -> np.ndarray:
    """Return the shard (cells,) int64 of each cell.

    Recursive bisection of the centroids along their first principal axis, then greedy moves of cells to
    the shard with which they share most neighbour edges (algorithm §5).

    Parameters
    ----------
    centroids : ndarray (cells, n_dims)
    sizes : ndarray (cells,)
        Rows of each cell.
    shared : ndarray or csr_array (cells, cells) or None
        Neighbour edges between cells, symmetric; None leaves the bisection as it is.
    n_shards : int
    """
    shards = np.zeros(len(sizes), np.int64)
    _bisect(centroids.astype(np.float64), sizes.astype(np.float64), np.arange(len(sizes)), n_shards, 0, shards)
    if shared is not None and n_shards > 1:
        _refine(shards, sizes.astype(np.float64), sp.csr_array(shared), n_shards)
    return shards


def _bisect(
    centroids: np.ndarray, sizes: np.ndarray, cells: np.ndarray, n_shards: int, first: int, shards: np.ndarray
) -> None:
    if n_shards == 1:
        shards[cells] = first
        return
    left = n_shards // 2
    weights = sizes[cells] / max(sizes[cells].sum(), 1e-12)
    points = centroids[cells] - weights @ centroids[cells]
    axis = np.linalg.eigh((points * weights[:, None]).T @ points)[1][:, -1]
    axis = axis if axis[np.abs(axis).argmax()] >= 0 else -axis
    order = cells[np.argsort(points @ axis, kind="stable")]
    share = np.cumsum(sizes[order]) / max(sizes[order].sum(), 1e-12)
    cut = int(np.abs(share - left / n_shards).argmin()) + 1
    cut = min(max(cut, left), len(order) - (n_shards - left))  # a cell at least for every shard
    _bisect(centroids, sizes, order[:cut], left, first, shards)
    _bisect(centroids, sizes, order[cut:], n_shards - left, first + left, shards)


def _refine(shards: np.ndarray, sizes: np.ndarray, shared: sp.csr_array, n_shards: int) -> None:
    """Move one cell at a time to where most of its edges lead, best gain first, while sizes allow it."""
    mean = sizes.sum() / n_shards
    rows = np.bincount(shards, sizes, n_shards)
    own = shared.diagonal()
    # Only cells that have edges can gain; there may be far more of the others.
    cells = np.flatnonzero(np.diff(shared.indptr))
    if not len(cells):
        return
    place = np.full(len(sizes), -1)
    place[cells] = np.arange(len(cells))
    member = sp.csr_array((np.ones(len(sizes)), (np.arange(len(sizes)), shards)), shape=(len(sizes), n_shards))
    ties = (shared @ member).toarray()[cells]  # ties[c, s]: edges of cell c into shard s
    here = shards[cells]
    every = np.arange(len(cells))
    ties[every, here] -= own[cells]
    for _ in range(_MAX_MOVES_PER_CELL * len(sizes)):
        gains = ties - ties[every, here][:, None]
        fits = rows[None, :] + sizes[cells, None] <= _OVER * mean
        leaves = rows[here] - sizes[cells] >= _UNDER * mean
        gains[~(fits & leaves[:, None])] = 0
        gains[every, here] = 0
        at, to = divmod(int(gains.argmax()), n_shards)
        if gains[at, to] <= 0:
            break
        cell, left = cells[at], here[at]
        rows[left] -= sizes[cell]
        rows[to] += sizes[cell]
        near = slice(shared.indptr[cell], shared.indptr[cell + 1])
        others, edges = place[shared.indices[near]], shared.data[near]
        ties[others, left] -= edges
        ties[others, to] += edges
        ties[at, left] += own[cell]
        ties[at, to] -= own[cell]
        here[at] = to
    shards[cells] = here
