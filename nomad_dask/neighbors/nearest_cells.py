"""The cells nearest to each cell."""

from __future__ import annotations

import numpy as np

_CELLS_AT_ONCE = 256
_GROUP_CELLS = 64


def nearest_cells(centroids: np.ndarray, first: int, last: int, m: int) -> np.ndarray:
    """Return the `m` nearest cells of cells `first` to `last`.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
    first, last : int
    m : int

    Returns
    -------
    ndarray of int64 (last - first, min(m, n_cells))
        Nearest first; a cell is among its own nearest cells.
    """
    n_cells = len(centroids)
    m = min(m, n_cells)
    centered = centroids - centroids.mean(axis=0)
    half_norms = np.einsum("ij,ij->i", centered, centered) / 2
    nearest = np.empty((last - first, m), np.int64)
    # The m nearest cells lie in the m groups of consecutive cells with the smallest minima: only these are sorted.
    n_groups = -(-n_cells // _GROUP_CELLS)
    in_group = np.arange(_GROUP_CELLS)
    for start in range(first, last, _CELLS_AT_ONCE):
        stop = min(start + _CELLS_AT_ONCE, last)
        n = stop - start
        # |a - b|²/2 without the term that is the same for all candidates of a cell.
        distances = np.full((n, n_groups * _GROUP_CELLS), np.inf, np.float32)
        np.subtract(half_norms, centered[start:stop] @ centered.T, out=distances[:, :n_cells])
        minima = distances.reshape(n, n_groups, _GROUP_CELLS).min(axis=2)
        groups = np.argpartition(minima, min(m, n_groups) - 1, axis=1)[:, :m]
        candidates = (groups[:, :, None] * _GROUP_CELLS + in_group).reshape(n, -1)
        distances = np.take_along_axis(distances, candidates, axis=1)
        part = np.argpartition(distances, m - 1, axis=1)[:, :m]
        order = np.argsort(np.take_along_axis(distances, part, axis=1), axis=1, kind="stable")
        part = np.take_along_axis(part, order, axis=1)
        nearest[start - first : stop - first] = np.take_along_axis(candidates, part, axis=1)
    return nearest
