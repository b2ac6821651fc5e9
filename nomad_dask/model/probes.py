"""How many cells around its own a new row searches, from where the neighbors of stored rows are."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.model.arrays import ModelArrays

TARGET_SHARE = 0.98
"""Share of the neighbors of stored rows that lie in the searched cells."""
_SAMPLE_ROWS = 2000
_FIRST_RANKS = 64


def choose_n_probes(arrays: ModelArrays, backend: Backend) -> int:
    """Return the number of cells nearest to the cell of a row that contain `TARGET_SHARE` of its neighbors."""
    cells, cells_of_neighbors = _sampled_cells(arrays)
    centroids = arrays.catalog.centroids
    own, index = np.unique(cells, return_inverse=True)
    n_ranks = _FIRST_RANKS
    while True:
        near = backend.nearest_cells(centroids, own, n_ranks)
        # The rank of each neighbor's cell, or `n_ranks` where it is not among the nearest.
        found = near[index][:, None, :] == cells_of_neighbors[:, :, None]
        ranks = np.where(found.any(axis=2), found.argmax(axis=2), n_ranks)[cells_of_neighbors >= 0]
        needed = int(np.quantile(ranks, TARGET_SHARE, method="inverted_cdf")) + 1 if ranks.size else 1
        if needed <= n_ranks or n_ranks >= len(centroids):
            return min(needed, len(centroids))
        n_ranks *= 4


def _sampled_cells(arrays: ModelArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells (n,) of evenly spaced rows, and those (n, k) of their neighbors; -1 where there is none."""
    ends = np.cumsum(arrays.catalog.counts)
    n_rows = int(ends[-1])
    rows = np.arange(0, n_rows, -(-n_rows // _SAMPLE_ROWS))
    neighbors, first = [], 0
    for shard in range(arrays.n_shards):
        lists, _ = arrays.lists(shard)
        own = rows[(rows >= first) & (rows < first + len(lists))] - first
        neighbors.append(np.asarray(lists[own]))
        first += len(lists)
    ids = np.concatenate(neighbors)
    cells_of_neighbors = np.where(ids == NO_ROW, -1, np.searchsorted(ends, ids, side="right"))
    return np.searchsorted(ends, rows, side="right"), cells_of_neighbors
