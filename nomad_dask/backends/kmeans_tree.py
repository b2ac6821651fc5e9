"""K-Means cells in a tree of two levels, shared by all backends.

scikit-learn's and cuML's `KMeans` have neither the tree, without which assignment costs rows × cells, nor bounds on
the sizes of cells, which the neighbor search needs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.data import CellTree

MAX_FLAT_CELLS = 1024
"""Up to this many cells one level is as fast as a tree."""
# A row is assigned among the children of this many nearest parents.
PARENTS_TRIED = 3
# A cell is tiny below, and oversized above, this multiple of the mean size.
TINY, OVERSIZED = 1 / 8, 4
ROWS_PER_PARENT = 256
"""Rows per parent to which the parents are fitted."""


class Clusterer(Protocol):
    """K-Means on one backend; arrays of rows are those of the backend."""

    def center(self, sample: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the rows (n, d) float32 relative to their mean, and the mean (d,) float32 on the host."""

    def fit(self, rows: Any, k: int) -> np.ndarray:
        """Return up to `k` centroids (k, d) float32 on the host."""

    def fit_bounded(self, rows: Any, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids on the host: more where cells of over `max_rows` rows were split."""

    def fit_children(self, rows: Any, parents: np.ndarray, n_cells: int, max_rows: float) -> list[np.ndarray]:
        """Return the centroids below each parent on the host, none for parents that are nearest to no row.

        Each parent gets its part of `n_cells` by `share_cells`, and more where cells of over `max_rows` rows were
        split.
        """


def share_cells(n_cells: int, n_members: int, n_rows: int) -> int:
    """Return how many of `n_cells` cells of `n_rows` rows are those of a group of some of them."""
    return max(1, round(n_cells * n_members / n_rows)) if n_members else 0


def count_parents(n_cells: int) -> int:
    """Return how many parents a tree of `n_cells` cells has; 0 for so few that one level is as fast."""
    return round(np.sqrt(n_cells)) if n_cells > MAX_FLAT_CELLS else 0


def fit_cells(sample: np.ndarray, n_cells: int, clusterer: Clusterer, parents: np.ndarray | None = None) -> CellTree:
    """Return about `n_cells` cells of a sample (rows, n_dims) float32: more where cells had to be split.

    Parameters
    ----------
    sample : ndarray
    n_cells : int
    clusterer : Clusterer
    parents : ndarray of float32 (n_parents, n_dims), optional
        By default, parents are fitted if there are many cells.
    """
    n = len(sample)
    n_cells = min(n_cells, n)
    # Distances are computed from products, which lose precision far from the origin.
    rows, center = clusterer.center(sample)
    max_rows = max(OVERSIZED * n / n_cells, 2)
    n_parents = count_parents(n_cells)
    if parents is None and not n_parents:
        centroids = clusterer.fit_bounded(rows, n_cells, max_rows) + center
        return CellTree(centroids, centroids.mean(axis=0, keepdims=True), np.array([0, len(centroids)], np.int64))
    if parents is None:
        parents = clusterer.fit(rows[:: max(1, n // (n_parents * ROWS_PER_PARENT))], n_parents)
    else:
        parents = parents - center
    children = clusterer.fit_children(rows, parents, n_cells, max_rows)
    used_parents = [parent for parent, centroids in enumerate(children) if len(centroids)]
    offsets = np.concatenate([[0], np.cumsum([len(children[parent]) for parent in used_parents])]).astype(np.int64)
    centroids = np.concatenate([children[parent] for parent in used_parents])
    return CellTree(centroids + center, parents[used_parents] + center, offsets)
