"""The cells nearest to each cell: compared with all others, or with those of nearby groups where there are many."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cell_groups import CellGroups, Run, half_norms
from nomad_dask.backends.group_search import tune_search
from nomad_dask.utils.threads import Threads

MAX_COMPARED_CELLS = 8192
"""Up to this many cells all are compared, and the result is exact."""
_PAIRS_AT_ONCE, _MIN_AT_ONCE = 1 << 19, 16
_GROUPS_AT_ONCE = 8
_N_SAMPLE = 128
_BUNCH = 16
"""Distances of which the smallest helps to bound those that are sorted."""


def nearest_cells(centroids: np.ndarray, cells: np.ndarray, m: int, run: Run | None = None) -> np.ndarray:
    """Return the `m` nearest cells of some cells.

    If there are more than `MAX_COMPARED_CELLS`, each is compared only with the cells of the nearest groups. This takes
    time about in proportion to n log n for n cells, and misses about one in a thousand of the nearest.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
    cells : ndarray of int (n,)
        Numbers of the cells, each once.
    m : int
    run : callable, optional
        Calls a function for the chunks of a range on several threads, as `Threads.run` does. The result is the same.

    Returns
    -------
    ndarray of int32 (n, min(m, n_cells))
        Nearest first; a cell is among its own nearest cells.
    """
    m = min(m, len(centroids))
    run = run or Threads(1).run
    centered = centroids - centroids.mean(axis=0)
    if len(centroids) <= MAX_COMPARED_CELLS:
        return _compare_all(centered[cells], centered, m, run)
    return _search_groups(centered, cells, m, run)


def _compare_all(points: np.ndarray, centers: np.ndarray, m: int, run: Run) -> np.ndarray:
    """Return the numbers int32 of the `m` centers nearest to each point, nearest first."""
    nearest = np.empty((len(points), m), np.int32)
    norms = half_norms(centers)

    def compare(start: int, stop: int) -> None:
        nearest[start:stop] = _nearest_among(points[start:stop], centers, norms, m)

    run(compare, len(points), max(_MIN_AT_ONCE, _PAIRS_AT_ONCE // len(centers)))
    return nearest


def _search_groups(centered: np.ndarray, cells: np.ndarray, m: int, run: Run) -> np.ndarray:
    """Return the `m` nearest cells of some cells, as far as they are in the groups nearest to these."""
    grouped = CellGroups(centered, run)
    centroids, norms = grouped.centroids, half_norms(grouped.centroids)
    row = np.full(len(centroids), -1)
    row[cells] = np.arange(len(cells))
    row = row[grouped.cells]
    # Of all cells, so that it does not matter which of them are wanted.
    sample = np.arange(0, len(centroids), -(-len(centroids) // _N_SAMPLE))
    searched = tune_search(grouped, sample, _compare_all(centroids[sample], centroids, m, run), run)
    nearest = np.empty((len(cells), m), np.int32)

    def search(start: int, stop: int) -> None:
        for group in range(start, stop):
            members = grouped.groups.expand(np.array([group]))
            wanted = members[row[members] >= 0]
            if len(wanted):
                others = searched.around(centroids[members], m)
                found = _nearest_among(centroids[wanted], centroids.take(others, axis=0), norms[others], m)
                nearest[row[wanted]] = grouped.cells[others[found]]

    run(search, len(grouped.groups.sizes), _GROUPS_AT_ONCE)
    return nearest


def _nearest_among(points: np.ndarray, centers: np.ndarray, norms: np.ndarray, m: int) -> np.ndarray:
    """Return the numbers of the `m` centers nearest to each point, nearest first; `norms` are their `half_norms`."""
    # |a - b|²/2 without the term that is the same for all candidates of a point.
    distances = points @ centers.T
    np.subtract(norms, distances, out=distances)
    n, n_centers = distances.shape
    # The m smallest minima of bunches bound the m smallest distances: only those up to the bound are sorted.
    n_bunches = n_centers // _BUNCH
    minima = distances
    if n_bunches >= m:
        minima = distances[:, : n_bunches * _BUNCH].reshape(n, _BUNCH, n_bunches).min(axis=1)
    bounds = np.partition(minima, m - 1, axis=1)[:, m - 1 : m]
    rows, columns = np.divmod(np.flatnonzero(distances <= bounds), n_centers)
    n_near = np.bincount(rows, minlength=n)
    filled = np.arange(n_near.max()) < n_near[:, None]
    near, numbers = np.full(filled.shape, np.inf, np.float32), np.zeros(filled.shape, np.int64)
    near[filled], numbers[filled] = distances[rows, columns], columns
    order = np.argsort(near, axis=1, kind="stable")[:, :m]
    return np.asarray(np.take_along_axis(numbers, order, axis=1))
