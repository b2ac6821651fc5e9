"""The cells nearest to each cell: compared with all others, or with those of nearby groups where there are many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.utils.threads import Threads

MAX_COMPARED_CELLS = 8192
"""Up to this many cells all are compared, and the result is exact."""
_N_GROUPS_SEARCHED = 12
_MIN_SEARCHED = 4
"""The groups that are searched have at least this multiple of the cells wanted."""
_N_ITERATIONS = 3
_CELLS_AT_ONCE = 256
_BUNCH = 64
"""Cells whose smallest distance decides whether they are sorted."""

_Run = Callable[[Callable[[int, int], object], int, int], None]


def nearest_cells(centroids: np.ndarray, cells: np.ndarray, m: int, run: _Run | None = None) -> np.ndarray:
    """Return the `m` nearest cells of some cells.

    With n cells, of which more than `MAX_COMPARED_CELLS`, each is compared with the cells of the nearest of √n groups,
    which takes time in proportion to n√n instead of n². A few of the farther cells may then be missed.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
        With near cells at near places, as in a tree, so that groups start from evenly spaced ones.
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
    n_cells = len(centroids)
    m = min(m, n_cells)
    run = run or Threads(1).run
    centered = centroids - centroids.mean(axis=0)
    half_norms = np.einsum("ij,ij->i", centered, centered) / 2
    nearest = np.empty((len(cells), m), np.int32)
    if n_cells <= MAX_COMPARED_CELLS:

        def compare(start: int, stop: int) -> None:
            nearest[start:stop] = _nearest_among(centered[cells[start:stop]], centered, half_norms, m)

        run(compare, len(cells), _CELLS_AT_ONCE)
        return nearest
    groups = _group_cells(centered, half_norms, run)
    place = np.full(n_cells, -1)
    place[cells] = np.arange(len(cells))
    parts = [
        members[start : start + _CELLS_AT_ONCE]
        for members in map(groups.members, range(len(groups.centers)))
        for start in range(0, len(members), _CELLS_AT_ONCE)
    ]

    def search(start: int, stop: int) -> None:
        for part in parts[start:stop]:
            wanted = part[place[part] >= 0]
            if len(wanted):
                others = groups.around(centered[part], m)
                found = _nearest_among(centered[wanted], centered[others], half_norms[others], m)
                nearest[place[wanted]] = others[found]

    run(search, len(parts), 1)
    return nearest


@dataclass(frozen=True)
class _Groups:
    """Groups of near cells.

    Attributes
    ----------
    centers : ndarray of float32 (n_groups, n_dims)
    cells : ndarray of int32 (n_cells,)
        Group by group, ascending in each.
    offsets : ndarray of int64 (n_groups + 1,)
    """

    centers: np.ndarray
    cells: np.ndarray
    offsets: np.ndarray

    def members(self, group: int) -> np.ndarray:
        """Return the cells of a group."""
        return self.cells[self.offsets[group] : self.offsets[group + 1]]

    def around(self, points: np.ndarray, m: int) -> np.ndarray:
        """Return the cells, ascending, of the groups nearest to any of the points, enough for `m` of each point."""
        half_norms = np.einsum("ij,ij->i", self.centers, self.centers) / 2
        order = np.argsort(half_norms - points @ self.centers.T, axis=1, kind="stable")
        sizes = np.diff(self.offsets)[order]
        before = np.cumsum(sizes, axis=1) - sizes
        searched = (np.arange(len(self.centers)) < _N_GROUPS_SEARCHED) | (before < _MIN_SEARCHED * m)
        return np.sort(np.concatenate([self.members(group) for group in np.unique(order[searched])]))


def _group_cells(centered: np.ndarray, half_norms: np.ndarray, run: _Run) -> _Groups:
    """Group cells by Lloyd's algorithm; groups that become empty are left out."""
    n_cells = len(centered)
    n_groups = round(n_cells**0.5)
    centers = centered[np.arange(n_groups) * n_cells // n_groups]
    group = np.empty(n_cells, np.int64)
    for _ in range(_N_ITERATIONS):
        group_norms = np.einsum("ij,ij->i", centers, centers) / 2

        def assign(start: int, stop: int, centers: np.ndarray = centers, norms: np.ndarray = group_norms) -> None:
            group[start:stop] = (norms - centered[start:stop] @ centers.T).argmin(axis=1)

        run(assign, n_cells, _CELLS_AT_ONCE)
        cells = np.argsort(group, kind="stable").astype(np.int32)
        counts = np.bincount(group, minlength=len(centers))
        counts = counts[counts > 0]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        centers = np.add.reduceat(centered[cells], offsets[:-1], axis=0) / counts[:, None].astype(np.float32)
    return _Groups(centers, cells, offsets)


def _nearest_among(points: np.ndarray, centers: np.ndarray, half_norms: np.ndarray, m: int) -> np.ndarray:
    """Return the numbers of the `m` centers nearest to each point, nearest first."""
    n, n_centers = len(points), len(centers)
    # The m nearest lie in the m bunches of consecutive centers with the smallest minima: only these are sorted.
    n_bunches = -(-n_centers // _BUNCH)
    # |a - b|²/2 without the term that is the same for all candidates of a point.
    distances = np.full((n, n_bunches * _BUNCH), np.inf, np.float32)
    np.subtract(half_norms, points @ centers.T, out=distances[:, :n_centers])
    minima = distances.reshape(n, n_bunches, _BUNCH).min(axis=2)
    bunches = np.argpartition(minima, min(m, n_bunches) - 1, axis=1)[:, :m]
    candidates = (bunches[:, :, None] * _BUNCH + np.arange(_BUNCH)).reshape(n, -1)
    distances = np.take_along_axis(distances, candidates, axis=1)
    part = np.argpartition(distances, m - 1, axis=1)[:, :m]
    order = np.argsort(np.take_along_axis(distances, part, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(candidates, np.take_along_axis(part, order, axis=1), axis=1))
