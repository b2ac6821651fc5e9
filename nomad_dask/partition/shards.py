"""Cells to shards: near cells together, sizes balanced, few neighbours cut apart."""

from __future__ import annotations

import numpy as np

# How far a shard may be from the mean size.
_OVER, _UNDER = 1.10, 0.80
_MAX_MOVES_PER_CELL = 20


def assign_cells(centroids: np.ndarray, sizes: np.ndarray, shared: np.ndarray | None, n_shards: int) -> np.ndarray:
    """Return the shard (cells,) int64 of each cell.

    Recursive bisection of the centroids along their first principal axis, then greedy moves of cells to
    the shard with which they share most neighbour edges (algorithm §5).

    Parameters
    ----------
    centroids : ndarray (cells, n_dims)
    sizes : ndarray (cells,)
        Rows of each cell.
    shared : ndarray (cells, cells) or None
        Neighbour edges between cells, symmetric; None leaves the bisection as it is.
    n_shards : int
    """
    shards = np.zeros(len(sizes), np.int64)
    _bisect(centroids.astype(np.float64), sizes.astype(np.float64), np.arange(len(sizes)), n_shards, 0, shards)
    if shared is not None and n_shards > 1:
        _refine(shards, sizes.astype(np.float64), shared, n_shards)
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


def _refine(shards: np.ndarray, sizes: np.ndarray, shared: np.ndarray, n_shards: int) -> None:
    """Move one cell at a time to where most of its edges lead, best gain first, while sizes allow it."""
    mean = sizes.sum() / n_shards
    rows = np.bincount(shards, sizes, n_shards)
    cells = np.arange(len(sizes))
    ties = np.zeros((len(sizes), n_shards))
    np.add.at(ties.T, shards, shared)  # ties[c, s]: edges of cell c into shard s
    ties[cells, shards] -= shared[cells, cells]
    for _ in range(_MAX_MOVES_PER_CELL * len(sizes)):
        gains = ties - ties[cells, shards][:, None]
        fits = rows[None, :] + sizes[:, None] <= _OVER * mean
        leaves = rows[shards] - sizes >= _UNDER * mean
        gains[~(fits & leaves[:, None])] = 0
        gains[cells, shards] = 0
        best = int(gains.argmax())
        cell, to = divmod(best, n_shards)
        if gains[cell, to] <= 0:
            return
        here = shards[cell]
        rows[here] -= sizes[cell]
        rows[to] += sizes[cell]
        ties[:, here] -= shared[:, cell]
        ties[:, to] += shared[:, cell]
        ties[cell, here] += shared[cell, cell]
        ties[cell, to] -= shared[cell, cell]
        shards[cell] = to
