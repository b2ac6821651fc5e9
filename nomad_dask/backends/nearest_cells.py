"""The cells nearest to each cell: compared with all others, or with those of nearby groups where there are many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from nomad_dask.utils.threads import Threads

MAX_COMPARED_CELLS = 8192
"""Up to this many cells all are compared, and the result is exact."""
_GROUP_CELLS = 64
"""Mean number of cells in a group."""
_RUN_CELLS = 4096
"""Consecutive cells that are grouped together."""
_N_GROUPS_SEARCHED = 32
_N_GROUPS_TRIED = 160
"""The groups nearest to a group, among which those to search are chosen for each of its cells."""
_MIN_SEARCHED = 4
"""The groups that are searched have at least this multiple of the cells wanted."""
_N_ITERATIONS = 3
_CELLS_AT_ONCE = 256
_MAX_INSERTED = 512
"""Up to this many nearest cells, each is inserted into the list of those before; more are sorted at once."""

_Run = Callable[[Callable[[int, int], object], int, int], None]


def nearest_cells(centroids: np.ndarray, cells: np.ndarray, m: int, run: _Run | None = None) -> np.ndarray:
    """Return the `m` nearest cells of some cells.

    More than `MAX_COMPARED_CELLS` are compared with the cells of nearby groups only, in a time that grows slightly
    faster than their number. A few of the farther cells may then be missed.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
        With near cells at near places, as in a tree, so that groups can be made of consecutive ones.
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
    groups = _group_cells(centered, run)
    n_tried = max(_N_GROUPS_TRIED, 2 * _MIN_SEARCHED * m // _GROUP_CELLS)
    near_groups = nearest_cells(groups.centers, np.arange(len(groups.centers)), n_tried, run)
    place = np.full(n_cells, -1)
    place[cells] = np.arange(len(cells))

    def search(start: int, stop: int) -> None:
        for group in range(start, stop):
            members = groups.members(group)
            wanted = members[place[members] >= 0]
            if len(wanted):
                # Of all members: then the result does not depend on which cells are wanted.
                others = groups.around(centered[members], near_groups[group], m)
                found = _nearest_among(centered[wanted], centered[others], half_norms[others], m)
                nearest[place[wanted]] = others[found]

    run(search, len(groups.centers), 1)
    return nearest


@dataclass(frozen=True)
class _Groups:
    """Groups of near cells.

    Attributes
    ----------
    centers : ndarray of float32 (n_groups, n_dims)
    cells : ndarray of int64 (n_cells,)
        Group by group, ascending in each.
    offsets : ndarray of int64 (n_groups + 1,)
    """

    centers: np.ndarray
    cells: np.ndarray
    offsets: np.ndarray

    def members(self, group: int) -> np.ndarray:
        """Return the cells of a group."""
        return self.cells[self.offsets[group] : self.offsets[group + 1]]

    def around(self, points: np.ndarray, tried: np.ndarray, m: int) -> np.ndarray:
        """Return the cells, ascending, of those groups that are nearest to any of the points, enough for `m` of each.

        All cells are returned where the groups to be tried have too few.
        """
        centers, sizes = self.centers[tried], np.diff(self.offsets)[tried]
        if sizes.sum() < m:
            return np.arange(len(self.cells))
        half_norms = np.einsum("ij,ij->i", centers, centers) / 2
        order = np.argsort(half_norms - points @ centers.T, axis=1, kind="stable")
        before = np.cumsum(sizes[order], axis=1) - sizes[order]
        searched = (np.arange(len(tried)) < _N_GROUPS_SEARCHED) | (before < _MIN_SEARCHED * m)
        return np.sort(np.concatenate([self.members(group) for group in tried[np.unique(order[searched])]]))


def _group_cells(centered: np.ndarray, run: _Run) -> _Groups:
    """Group consecutive cells by Lloyd's algorithm; groups that become empty are left out."""
    n_runs = -(-len(centered) // _RUN_CELLS)
    parts: list[_Groups] = [_Groups(centered[:0], np.empty(0, np.int64), np.zeros(1, np.int64))] * n_runs

    def group_run(start: int, stop: int) -> None:
        for i in range(start, stop):
            first = i * len(centered) // n_runs
            parts[i] = _lloyd(centered[first : (i + 1) * len(centered) // n_runs], first)

    run(group_run, n_runs, 1)
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return _Groups(
        np.concatenate([part.centers for part in parts]),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


def _lloyd(points: np.ndarray, first: int) -> _Groups:
    """Return groups of consecutive cells, the first of which has this number."""
    n_groups = max(1, round(len(points) / _GROUP_CELLS))
    centers = points[np.arange(n_groups) * len(points) // n_groups]
    for _ in range(_N_ITERATIONS):
        half_norms = np.einsum("ij,ij->i", centers, centers) / 2
        group = (half_norms - points @ centers.T).argmin(axis=1)
        cells = np.argsort(group, kind="stable")
        counts = np.bincount(group, minlength=len(centers))
        counts = counts[counts > 0]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        centers = np.add.reduceat(points[cells], offsets[:-1], axis=0) / counts[:, None].astype(np.float32)
    return _Groups(centers, first + cells, offsets)


def _nearest_among(points: np.ndarray, centers: np.ndarray, half_norms: np.ndarray, m: int) -> np.ndarray:
    """Return the numbers of the `m` centers nearest to each point, nearest first."""
    # |a - b|²/2 without the term that is the same for all candidates of a point.
    distances = half_norms - points @ centers.T
    if m > _MAX_INSERTED:
        part = np.argpartition(distances, m - 1, axis=1)[:, :m]
        order = np.argsort(np.take_along_axis(distances, part, axis=1), axis=1, kind="stable")
        return np.asarray(np.take_along_axis(part, order, axis=1))
    nearest = np.zeros((len(points), m), np.int64)
    _select(distances, nearest)
    return nearest


@njit(nogil=True, cache=True)
def _select(distances, nearest):  # type: ignore[no-untyped-def]
    """Write the columns of the smallest distances of each row, smallest first."""
    m = nearest.shape[1]
    smallest = np.empty(m, np.float32)
    for i in range(distances.shape[0]):
        smallest[:] = np.inf
        for j in range(distances.shape[1]):
            distance = distances[i, j]
            if distance >= smallest[m - 1]:
                continue
            at = m - 1
            while at > 0 and smallest[at - 1] > distance:
                smallest[at] = smallest[at - 1]
                nearest[i, at] = nearest[i, at - 1]
                at -= 1
            smallest[at] = distance
            nearest[i, at] = j
