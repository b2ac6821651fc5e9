"""Approximate neighbors within the sample, for the edges between cells."""

from __future__ import annotations

import numpy as np

# Cells searched for each query, unless more are needed for enough rows.
_MIN_CELLS = 16
_QUERIES_AT_ONCE = 8


def sample_neighbors(
    sample: np.ndarray, labels: np.ndarray, centroids: np.ndarray, queries: np.ndarray, k: int
) -> np.ndarray:
    """Return the neighbors of a few rows of the sample: the nearest rows in the cells around each.

    Parameters
    ----------
    sample : ndarray of float32 (n_rows, n_axes)
    labels : ndarray of int32 (n_rows,)
        Cell of each row.
    centroids : ndarray of float32 (n_cells, n_axes)
    queries : ndarray of int64 (n_queries,)
        Rows of the sample; a row is not its own neighbor.
    k : int

    Returns
    -------
    ndarray of int64 (n_queries, min(k, n_rows - 1))
        Unordered.
    """
    n_rows, n_cells = len(sample), len(centroids)
    k = min(k, n_rows - 1)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=n_cells)
    stops = np.cumsum(counts)
    # Enough cells to hold, on average, four times the rows needed. Empty cells are never searched.
    n_near = min(n_cells, max(_MIN_CELLS, -(-4 * k * n_cells // n_rows)))
    mean = sample.mean(axis=0)
    rows, centers = sample - mean, centroids - mean
    half_norms, half_center_norms = (np.einsum("ij,ij->i", points, points) / 2 for points in (rows, centers))
    half_center_norms[counts == 0] = np.inf
    neighbors = np.empty((len(queries), k), np.int64)
    # Consecutive queries of one cell, or of cells with the same parent, search the same cells.
    by_cell = np.argsort(labels[queries], kind="stable")
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        batch = by_cell[start : start + _QUERIES_AT_ONCE]
        points = rows[queries[batch]]
        # |a - b|²/2 without the term that is the same for all candidates of a query.
        distances = half_center_norms - points @ centers.T
        near_cells = np.unique(np.argpartition(distances, n_near - 1, axis=1)[:, :n_near])
        candidates = np.concatenate([order[stops[c] - counts[c] : stops[c]] for c in near_cells])
        distances = half_norms[candidates] - points @ rows[candidates].T
        distances[candidates == queries[batch][:, None]] = np.inf
        neighbors[batch] = candidates[np.argpartition(distances, k - 1, axis=1)[:, :k]]
    return neighbors
