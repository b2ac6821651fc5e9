"""Assign cells to shards: nearby cells together, sizes balanced, few neighbor edges cut."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

# Bounds of a shard's rows, relative to the mean.
_MAX_SIZE, _MIN_SIZE = 1.10, 0.80
_MAX_MOVES_PER_CELL = 20


def assign_cells(
    centroids: np.ndarray, sizes: np.ndarray, edges: np.ndarray | sp.csr_array | None, n_shards: int
) -> np.ndarray:
    """Return the shard (n_cells,) int64 of each cell.

    Recursive bisection of the centroids along their first principal axis, then greedy moves of cells to
    the shard with which they share most neighbor edges (algorithm §5).

    Parameters
    ----------
    centroids : ndarray (n_cells, n_dims)
    sizes : ndarray (n_cells,)
        Rows of each cell.
    edges : ndarray or csr_array (n_cells, n_cells) or None
        Number of neighbor edges between cells, symmetric; None skips the moves.
    n_shards : int
    """
    shards = np.zeros(len(sizes), np.int64)
    _bisect(centroids.astype(np.float64), sizes.astype(np.float64), np.arange(len(sizes)), n_shards, 0, shards)
    if edges is not None and n_shards > 1:
        _move_cells(shards, sizes.astype(np.float64), sp.csr_array(edges), n_shards)
    return shards


def _bisect(
    centroids: np.ndarray, sizes: np.ndarray, cells: np.ndarray, n_shards: int, first_shard: int, shards: np.ndarray
) -> None:
    """Assign `cells` to `n_shards` shards from `first_shard` on, in place."""
    if n_shards == 1:
        shards[cells] = first_shard
        return
    n_left = n_shards // 2
    weights = sizes[cells] / max(sizes[cells].sum(), 1e-12)
    points = centroids[cells] - weights @ centroids[cells]
    axis = np.linalg.eigh((points * weights[:, None]).T @ points)[1][:, -1]
    axis = axis if axis[np.abs(axis).argmax()] >= 0 else -axis
    order = cells[np.argsort(points @ axis, kind="stable")]
    cumulative = np.cumsum(sizes[order]) / max(sizes[order].sum(), 1e-12)
    cut = int(np.abs(cumulative - n_left / n_shards).argmin()) + 1
    cut = min(max(cut, n_left), len(order) - (n_shards - n_left))  # at least one cell for every shard
    _bisect(centroids, sizes, order[:cut], n_left, first_shard, shards)
    _bisect(centroids, sizes, order[cut:], n_shards - n_left, first_shard + n_left, shards)


def _move_cells(shards: np.ndarray, sizes: np.ndarray, edges: sp.csr_array, n_shards: int) -> None:
    """Move one cell at a time to the shard it has most edges with, largest gain first, within the size bounds."""
    mean_rows = sizes.sum() / n_shards
    shard_rows = np.bincount(shards, sizes, n_shards)
    self_edges = edges.diagonal()
    # Only cells with edges can gain; most cells may have none.
    cells = np.flatnonzero(np.diff(edges.indptr))
    if not len(cells):
        return
    index_of_cell = np.full(len(sizes), -1)
    index_of_cell[cells] = np.arange(len(cells))
    shard_of = shards[cells]
    index = np.arange(len(cells))
    edges_to = _edges_to_shards(shards, edges, n_shards)[cells]
    edges_to[index, shard_of] -= self_edges[cells]
    for _ in range(_MAX_MOVES_PER_CELL * len(sizes)):
        gains = edges_to - edges_to[index, shard_of][:, None]
        has_room = shard_rows[None, :] + sizes[cells, None] <= _MAX_SIZE * mean_rows
        may_leave = shard_rows[shard_of] - sizes[cells] >= _MIN_SIZE * mean_rows
        gains[~(has_room & may_leave[:, None])] = 0
        gains[index, shard_of] = 0
        best, target = divmod(int(gains.argmax()), n_shards)
        if gains[best, target] <= 0:
            break
        cell, origin = cells[best], shard_of[best]
        shard_rows[origin] -= sizes[cell]
        shard_rows[target] += sizes[cell]
        linked = slice(edges.indptr[cell], edges.indptr[cell + 1])
        others, n_edges = index_of_cell[edges.indices[linked]], edges.data[linked]
        edges_to[others, origin] -= n_edges
        edges_to[others, target] += n_edges
        edges_to[best, origin] += self_edges[cell]
        edges_to[best, target] -= self_edges[cell]
        shard_of[best] = target
    shards[cells] = shard_of


def _edges_to_shards(shards: np.ndarray, edges: sp.csr_array, n_shards: int) -> np.ndarray:
    """Return the number of edges (n_cells, n_shards) from each cell into each shard."""
    n_cells = len(shards)
    membership = sp.csr_array((np.ones(n_cells), (np.arange(n_cells), shards)), shape=(n_cells, n_shards))
    return np.asarray((edges @ membership).toarray())
