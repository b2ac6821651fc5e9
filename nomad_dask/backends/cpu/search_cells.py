"""The cells of the CPU's neighbor search: those of the shard, or smaller ones into which they are split.

A search that probes small cells compares fewer rows for the same recall, as their borders follow the rows more closely.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from nomad_dask.backends.cpu.cell_search_kernels import FAST_MATH
from nomad_dask.utils.threads import Threads

_N_ITERATIONS = 4
_MAX_PARTS = 64
"""Parts of one cell; of a cell with more rows they are larger."""
_CELLS_AT_ONCE = 16


class SearchCells:
    """Non-empty cells, and the rows of each.

    Parameters
    ----------
    offsets : ndarray of int64 (n_cells + 1,)
        Cell c owns ``offsets[c]`` to ``offsets[c + 1]`` of the members.
    members : ndarray of int32 (n_rows,), optional
        Rows, cell by cell, ascending within a cell. By default all rows in their order.

    Attributes
    ----------
    sizes : ndarray of int64 (n_cells,)
    """

    def __init__(self, offsets: np.ndarray, members: np.ndarray | None = None) -> None:
        self.offsets, self.members = offsets, members
        self.sizes = np.diff(offsets)
        self._cell_of_row: np.ndarray | None = None
        if members is not None:
            self._cell_of_row = np.empty(len(members), np.int32)
            self._cell_of_row[members] = np.repeat(np.arange(self.n_cells, dtype=np.int32), self.sizes)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.sizes)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Return members `start` to `stop` int32."""
        return np.arange(start, stop, dtype=np.int32) if self.members is None else self.members[start:stop]

    def rows_of(self, cell: int) -> np.ndarray:
        """Return the rows int32 of a cell, ascending."""
        return self.slice(int(self.offsets[cell]), int(self.offsets[cell + 1]))

    def cell_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the cell of each row."""
        if self._cell_of_row is not None:
            return np.take(self._cell_of_row, rows)
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def cell_of_all_rows(self) -> np.ndarray:
        """Return the cell int32 of all rows."""
        if self._cell_of_row is not None:
            return self._cell_of_row
        return np.repeat(np.arange(self.n_cells, dtype=np.int32), self.sizes)


def split_cells(
    read: Callable[[int, int], np.ndarray], offsets: np.ndarray, part_rows: int, pool: Threads
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells by K-Means into parts of about `part_rows` rows.

    Parameters
    ----------
    read : callable
        Returns some consecutive rows (n, d) float32 in the filter.
    offsets : ndarray of int64 (n_cells + 1,)
        Cell c owns rows ``offsets[c]`` to ``offsets[c + 1]``.
    part_rows : int
    pool : Threads

    Returns
    -------
    labels : ndarray of uint8 (n_rows,)
        Part of each row within its cell.
    means : ndarray of float32 (n_parts, d)
        Of all parts that are not empty, cell by cell.
    """
    labels = np.zeros(int(offsets[-1]), np.uint8)
    means: list[np.ndarray] = [np.zeros(0, np.float32)] * (len(offsets) - 1)

    def split(start: int, stop: int) -> None:
        for cell in range(start, stop):
            first, last = int(offsets[cell]), int(offsets[cell + 1])
            rows = np.ascontiguousarray(read(first, last))
            n_parts = min(round(len(rows) / part_rows), _MAX_PARTS)
            if n_parts > 1:
                _split_rows(rows, n_parts, labels[first:last])
            means[cell] = _mean_rows(rows, labels[first:last], max(n_parts, 1))

    pool.run(split, len(offsets) - 1, _CELLS_AT_ONCE)
    return labels, np.concatenate(means)


def cells_of_parts(labels: np.ndarray, offsets: np.ndarray) -> SearchCells:
    """Return the parts that are not empty as cells; see `split_cells`."""
    sizes = np.diff(offsets)
    keys = np.repeat(np.arange(len(sizes), dtype=np.int64) * _MAX_PARTS, sizes) + labels
    members = np.argsort(keys, kind="stable").astype(np.int32)
    counts = np.bincount(keys)
    return SearchCells(np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64), members)


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def _split_rows(rows, n_parts, labels):  # type: ignore[no-untyped-def]
    """Run Lloyd's algorithm from evenly spaced rows; a part that becomes empty keeps its center."""
    n, d = rows.shape
    centers = np.empty((n_parts, d), np.float32)
    for c in range(n_parts):
        first = rows[(2 * c + 1) * n // (2 * n_parts)]
        for j in range(d):  # assigning a whole row would compile checks of shapes, which takes seconds
            centers[c, j] = first[j]
    counts = np.empty(n_parts, np.int64)
    sums = np.empty((n_parts, d), np.float32)
    for iteration in range(_N_ITERATIONS):
        counts[:] = 0
        sums[:] = 0
        for i in range(n):
            row = rows[i]
            nearest, least = 0, np.float32(np.inf)
            for c in range(n_parts):
                center = centers[c]
                total = np.float32(0)
                for j in range(d):
                    difference = row[j] - center[j]
                    total += difference * difference
                if total < least:
                    nearest, least = c, total
            labels[i] = nearest
            counts[nearest] += 1
            part = sums[nearest]
            for j in range(d):
                part[j] += row[j]
        for c in range(n_parts):
            if counts[c] > 0 and iteration < _N_ITERATIONS - 1:
                for j in range(d):
                    centers[c, j] = sums[c, j] / np.float32(counts[c])


def _mean_rows(rows: np.ndarray, labels: np.ndarray, n_parts: int) -> np.ndarray:
    """Return the means float32 of the parts that are not empty."""
    sums = np.zeros((n_parts, rows.shape[1]))
    _sum_rows(rows, labels, sums)
    counts = np.bincount(labels, minlength=n_parts)
    return (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)


@njit(nogil=True, cache=True)
def _sum_rows(rows, labels, sums):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            sums[labels[i], j] += rows[i, j]
