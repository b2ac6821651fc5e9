"""The tree by which new rows find the cells of a finished run."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.data import CellTree, PrincipalAxes

_CELLS_AT_ONCE = 4096


def tree_of_cells(centroids: np.ndarray, axes: PrincipalAxes, parents: np.ndarray) -> tuple[CellTree, np.ndarray]:
    """Return the cells of all shards as a tree in the space of the axes, and their numbers in its order.

    They are not the cells that K-Means made: the largest of these were split, and the centroids are means of rows.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
        Means of the rows of each cell.
    axes : PrincipalAxes
    parents : ndarray of float32 (n_parents, n_axes)
        Those of K-Means.

    Returns
    -------
    tree : CellTree
    numbers : ndarray of int32 (n_cells,)
    """
    coordinates = ((centroids - axes.mean) @ axes.components.T).astype(np.float32)
    parent = np.empty(len(centroids), np.int64)
    half_norms = np.einsum("ij,ij->i", parents, parents) / 2
    for start in range(0, len(centroids), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        parent[part] = (half_norms - coordinates[part] @ parents.T).argmin(axis=1)
    order = np.argsort(parent, kind="stable")
    used, counts = np.unique(parent, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return CellTree(coordinates[order], parents[used], offsets), order.astype(np.int32)
