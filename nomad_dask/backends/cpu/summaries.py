"""Means of cells, which is all that shards tell each other of their rows."""

from __future__ import annotations

import numpy as np

GRID = 16


def cell_means(points: np.ndarray, cell_offsets: np.ndarray) -> np.ndarray:
    """Return the means (cells, dim) of rows sorted by cell, in float32; the mean of no rows is 0."""
    counts = np.diff(cell_offsets)
    sums = np.zeros((len(counts), points.shape[1]))
    filled = counts > 0
    if filled.any():
        sums[filled] = np.add.reduceat(points, cell_offsets[:-1][filled], axis=0, dtype=np.float64)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def grid_means(points: np.ndarray) -> np.ndarray:
    """Return count and mean (m, 1 + dim) of the non-empty cells of a grid over the points' extent."""
    dim = points.shape[1]
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (GRID * (1 - 1e-6)) / np.maximum(high - low, 1e-9)
    places = ((points - low) * scale).astype(np.int64)
    cells = np.ravel_multi_index(tuple(places.T), (GRID,) * dim, mode="clip")
    counts = np.bincount(cells, minlength=GRID**dim)
    filled = np.flatnonzero(counts)
    columns = [counts[filled]]
    for a in range(dim):
        columns.append(np.bincount(cells, weights=points[:, a], minlength=GRID**dim)[filled] / counts[filled])
    return np.stack(columns, axis=1).astype(np.float32)
