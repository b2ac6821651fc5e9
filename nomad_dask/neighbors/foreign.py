"""Attraction across shards: rows are drawn to the means of near cells that other shards own.

Edges never leave a shard. What they would have done is done by the cells in which a row's neighbours are
likely to be: w_ir ∝ n_r·exp(−d²_ir/(β·d²_nearest)) over the nearest cells r of row i (algorithm §5).
"""

from __future__ import annotations

import numpy as np

NEAREST = 8
_CANDIDATES = 48
_BETAS = np.geomspace(0.01, 1.0, 21)


def _nearest_cells(
    rows: np.ndarray, centroids: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of some cells to each row, and their squared distances, nearest first."""
    near = centroids[candidates]
    middle = near.mean(axis=0)
    rows, near = rows - middle, near - middle
    gaps = np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * rows @ near.T + np.einsum("ij,ij->i", near, near)
    m = min(NEAREST, len(candidates))
    part = np.argpartition(gaps, m - 1, axis=1)[:, :m]
    part = np.take_along_axis(part, np.argsort(np.take_along_axis(gaps, part, 1), axis=1, kind="stable"), 1)
    return candidates[part], np.maximum(np.take_along_axis(gaps, part, 1), 0)


def _weights(squared: np.ndarray, counts: np.ndarray, beta: float) -> np.ndarray:
    nearest = np.maximum(squared[:, :1], 1e-12)
    weights = counts * np.exp((1 - squared / nearest) / beta)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def fit_beta(
    rows: np.ndarray, neighbor_cells: np.ndarray, centroids: np.ndarray, counts: np.ndarray
) -> float:
    """Return the β under which the cells of true neighbours are most likely.

    Parameters
    ----------
    rows : ndarray of float32 (m, n_dims)
        Sampled rows.
    neighbor_cells : ndarray of int (m, k)
        Cells of their nearest neighbours.
    centroids : ndarray of float32 (cells, n_dims)
    counts : ndarray (cells,)
        Rows of each cell.
    """
    cells, squared = _nearest_cells(rows, centroids, np.arange(len(centroids)))
    hits = (neighbor_cells[:, :, None] == cells[:, None, :]).sum(axis=1)
    likelihood = [
        float((hits * np.log(np.maximum(_weights(squared, counts[cells], beta), 1e-9))).sum())
        for beta in _BETAS
    ]
    return float(_BETAS[int(np.argmax(likelihood))])


def foreign_cells(
    rows: np.ndarray,
    centroids: np.ndarray,
    counts: np.ndarray,
    near: np.ndarray,
    own: tuple[int, int],
    beta: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for the rows of one cell the foreign cells that attract them, heaviest first, and their weights.

    Parameters
    ----------
    rows : ndarray of float32 (m, n_dims)
        Rows of one cell.
    centroids, counts : ndarray
        Of the cells of all shards.
    near : ndarray of int (c,)
        The cells nearest to the rows' own cell.
    own : (int, int)
        Cells from the first to before the second number belong to the own shard.
    beta : float

    Returns
    -------
    cells : ndarray of int32 (m, NEAREST)
    weights : ndarray of float32 (m, NEAREST)
        Zero where there is no further foreign cell; the rest to 1 is the share of the own shard.
    """
    cells, squared = _nearest_cells(rows, centroids, near)
    weights = _weights(squared, counts[cells], beta)
    weights[(cells >= own[0]) & (cells < own[1])] = 0
    weights[weights < 1e-3] = 0
    order = np.argsort(-weights, axis=1, kind="stable")
    out_cells = np.zeros((len(rows), NEAREST), np.int32)
    out_weights = np.zeros((len(rows), NEAREST), np.float32)
    out_cells[:, : cells.shape[1]] = np.take_along_axis(cells, order, 1)
    out_weights[:, : cells.shape[1]] = np.take_along_axis(weights, order, 1)
    out_cells[out_weights == 0] = 0
    return out_cells, out_weights


def nearest_of_each(centroids: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return for cells `first` to `last` the numbers (cells, m) of the cells nearest to each, nearest first."""
    m = min(_CANDIDATES, len(centroids))
    middle = centroids.mean(axis=0)
    centered = centroids - middle
    norms = np.einsum("ij,ij->i", centered, centered)
    near = np.empty((last - first, m), np.int64)
    for a in range(first, last, 1024):
        b = min(a + 1024, last)
        gaps = norms - 2 * centered[a:b] @ centered.T
        part = np.argpartition(gaps, m - 1, axis=1)[:, :m]
        inner = np.argsort(np.take_along_axis(gaps, part, 1), axis=1, kind="stable")
        near[a - first : b - first] = np.take_along_axis(part, inner, 1)
    return near
