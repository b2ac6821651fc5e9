"""Whether K-Means has converged: how far one more iteration would move the centroids."""

from __future__ import annotations

from typing import Any

import numpy as np

# Cells handled at once, to bound memory.
_CELLS_AT_ONCE = 256
_MAX_SHIFT = 0.25
# Inertia below this share of the squared norms is rounding.
_ROUNDING = 1e-9


def kmeans_convergence(rows: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> dict[str, Any]:
    """Measure how far one more iteration of K-Means would move the centroids.

    Parameters
    ----------
    rows : ndarray of float32 (n_rows, n_axes)
    labels : ndarray of int32 (n_rows,)
        Cell of each row.
    centroids : ndarray of float32 (n_cells, n_axes)

    Returns
    -------
    dict
        ``kmeans_shift``: root mean square, over the rows, of the shift of their centroid in one more iteration, in
        units of the root mean square distance from rows to centroids. ``kmeans_converged``: whether it is below 0.25,
        where another iteration lowers that distance by less than a thirtieth.
    """
    n_cells = len(centroids)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=n_cells)
    stops = np.cumsum(counts)
    squared_shifts = inertia = 0.0
    for first in range(0, n_cells, _CELLS_AT_ONCE):
        last = min(first + _CELLS_AT_ONCE, n_cells)
        members = order[stops[first] - counts[first] : stops[last - 1]]
        member_labels = labels[members]
        differences = rows[members] - centroids[member_labels]
        inertia += float(np.einsum("ij,ij->", differences, differences, dtype=np.float64))
        occupied = np.flatnonzero(counts[first:last]) + first
        if len(occupied):
            starts = np.searchsorted(member_labels, occupied)
            sums = np.add.reduceat(differences, starts, axis=0, dtype=np.float64)
            squared_shifts += float((np.einsum("ij,ij->i", sums, sums) / counts[occupied]).sum())
    # With identical rows, or one row per cell, the inertia is only rounding.
    squared_norms = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    shift = float(np.sqrt(squared_shifts / inertia)) if inertia > _ROUNDING * squared_norms else 0.0
    return {"kmeans_shift": shift, "kmeans_converged": shift < _MAX_SHIFT}
