"""Anchors, rows of a shard whose positions are known: where to search for those nearest to each row."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cell_groups import Run
from nomad_dask.backends.nearest_cells import nearest_cells

MAX_NEAREST = 4
"""The nearest anchors of a row that determine its position."""
_MIN_CELLS = 8
_GROWTH = 4


def cells_to_search(
    centroids: np.ndarray,
    n_anchors: np.ndarray,
    run: Run,
) -> list[np.ndarray]:
    """Return the cells in which the anchors nearest to the rows of each cell are searched for.

    They are its nearest cells: 8, or as many as contain `MAX_NEAREST` anchors, or as there are anchors.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
    n_anchors : ndarray of int (n_cells,)
        Anchors of each cell, which may have none.
    run : callable
        See `nearest_cells`.
    """
    searched = list(np.zeros((len(centroids), 0), np.int32))
    n_wanted = min(MAX_NEAREST, int(n_anchors.sum()))
    left, width = np.arange(len(centroids)), _MIN_CELLS
    while len(left):
        near = nearest_cells(centroids, left, width, run)
        n_needed = 1 + (np.cumsum(n_anchors[near], axis=1) < n_wanted).sum(axis=1)
        for cell, cells, n in zip(left, near, n_needed, strict=True):
            searched[cell] = cells[: max(_MIN_CELLS, n)]
        left, width = left[n_needed > near.shape[1]], width * _GROWTH
    return searched


def mean_positions(positions: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the means (n, dim) float64 of the positions of anchors, weighted 1, 1/2, 1/3, 1/4.

    Parameters
    ----------
    positions : ndarray of float32 (n_anchors, dim)
    nearest : ndarray of int (n, n_nearest)
        Anchors, nearest first.
    """
    weights = 1 / np.arange(1, nearest.shape[1] + 1)
    weights /= weights.sum()
    means = np.zeros((len(nearest), positions.shape[1]))
    for rank, weight in enumerate(weights):
        means += np.take(positions, nearest[:, rank], axis=0) * weight
    return means
