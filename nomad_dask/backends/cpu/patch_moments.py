"""Means and standard deviations of patches, which shards exchange instead of their rows."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def _sum_patches(points, patch_of_row, sums, squares):  # type: ignore[no-untyped-def]
    for i in range(points.shape[0]):
        p = patch_of_row[i]
        for a in range(points.shape[1]):
            sums[p, a] += points[i, a]
            squares[p, a] += np.float64(points[i, a]) * points[i, a]


def patch_moments(points: np.ndarray, patch_of_row: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return means and standard deviations (patches, 2·dim) float32 of the rows of each patch.

    Parameters
    ----------
    points : ndarray of float32 (rows, dim)
    patch_of_row : ndarray of int32 (rows,)
    counts : ndarray of int64 (patches,)
        Rows of each patch; a patch without rows has mean and standard deviation 0.
    """
    if not len(counts):
        return np.zeros((0, 2 * points.shape[1]), np.float32)
    sums, squares = np.zeros((2, len(counts), points.shape[1]))
    _sum_patches(points, patch_of_row, sums, squares)
    rows = np.maximum(counts, 1)[:, None]
    means = sums / rows
    return np.hstack([means, np.sqrt(np.maximum(squares / rows - means**2, 0))]).astype(np.float32)
