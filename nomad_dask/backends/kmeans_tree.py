"""K-Means cells in a tree of two levels, shared by all backends.

scikit-learn's and cuML's `KMeans` have neither the tree, without which assignment costs rows × cells, nor bounds on
the sizes of cells, which the neighbor search needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.base import CellTree

# A row is assigned among the children of this many nearest parents.
PARENTS_TRIED = 3
# A cell is tiny below, and oversized above, this multiple of the mean size.
TINY, OVERSIZED = 1 / 8, 4
# Rows per parent to which the parents are fitted.
_ROWS_PER_PARENT = 256


class Clusterer(Protocol):
    """K-Means of one group of rows, on one backend; arrays of rows are those of the backend.

    Attributes
    ----------
    max_flat_cells : int
        Up to this many cells one level is as fast as a tree.
    """

    max_flat_cells: int

    def upload(self, rows: np.ndarray) -> Any:
        """Return rows (n, d) float32 as the backend's array."""

    def fit(self, rows: Any, k: int) -> np.ndarray:
        """Return up to `k` centroids (k, d) float32 on the host."""

    def fit_bounded(self, rows: Any, k: int, max_rows: float) -> np.ndarray:
        """Return about `k` centroids on the host: more where cells of over `max_rows` rows were split."""

    def groups(self, rows: Any, centroids: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield each centroid that is nearest to any row, with those rows, in the order of the centroids."""


def fit_cells(sample: np.ndarray, n_cells: int, clusterer: Clusterer) -> CellTree:
    """Return about `n_cells` cells of a sample (rows, n_dims) float32: more where cells had to be split."""
    n = len(sample)
    n_cells = min(n_cells, n)
    # Distances are computed from products, which lose precision far from the origin.
    center = sample.mean(axis=0)
    rows = clusterer.upload(sample - center)
    max_rows = max(OVERSIZED * n / n_cells, 2)
    if n_cells <= clusterer.max_flat_cells:
        centroids = clusterer.fit_bounded(rows, n_cells, max_rows) + center
        return CellTree(centroids, centroids.mean(axis=0, keepdims=True), np.array([0, len(centroids)], np.int64))
    n_parents = round(np.sqrt(n_cells))
    parents = clusterer.fit(rows[:: max(1, n // (n_parents * _ROWS_PER_PARENT))], n_parents)
    children, used_parents = [], []
    for parent, members in clusterer.groups(rows, parents):
        k = max(1, round(n_cells * len(members) / n))
        children.append(clusterer.fit_bounded(members, k, max_rows))
        used_parents.append(parent)
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in children])]).astype(np.int64)
    return CellTree(np.concatenate(children) + center, parents[used_parents] + center, offsets)
