"""Rows of a shard and their coordinates in the filter, in memory or read from disk block by block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from nomad_dask.backends.cpu import cell_search_kernels as kernels
from nomad_dask.backends.cpu.pca_filter import BLOCK_ROWS, BlockCache, PcaFilter, principal_axes
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import Threads

_SAMPLE_ROWS = 4000
"""Rows from which the axes of the filter are computed."""


class FilteredRows:
    """Rows sorted by cell, and these rows projected to the axes of a filter.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray of int64 (cells + 1,)
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``; no cell is empty.
    pool : Threads
    memory_bytes : int
        Half of it is for the projected rows.

    Attributes
    ----------
    held : ndarray of float32 (n, n_columns or d) or None
        Projected rows if they fit in memory. If the filter keeps all dimensions these are the rows themselves, without
        a copy: not relative to the mean, and without a column for the residual.
    """

    def __init__(self, vectors: ShardVectors, cell_offsets: np.ndarray, pool: Threads, memory_bytes: int) -> None:
        self.vectors = vectors
        self._offsets = cell_offsets
        self._pool = pool
        self._max_bytes = memory_bytes // 2
        self.held: np.ndarray | None = None
        self.unload()

    @property
    def origin(self) -> np.ndarray | np.float32:
        """What to add to a position in the filter to compare it with `held`."""
        return self.filter.mean if self.filter.axes is None else np.float32(0)

    def fit(self, n_axes: int | None, rng: np.random.Generator) -> PcaFilter:
        """Fit the filter to a random sample of the rows, with `n_axes` axes or all dimensions for None."""
        n = self.vectors.n_rows
        sample = np.sort(rng.choice(n, min(n, _SAMPLE_ROWS), replace=False))
        rows = self.gather(sample)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        axes = None if n_axes is None else principal_axes(rows - mean, n_axes, rng)
        self.filter = PcaFilter(mean, axes)
        return self.filter

    def load(self) -> None:
        """Load rows and projected rows into memory, each if it fits."""
        self.vectors.load(self._pool.run)
        n = self.vectors.n_rows
        if self.filter.axes is None:
            self.held = self.vectors.read(0, n) if self.vectors.resident else None
            return
        if n * self.filter.n_columns * 4 > self._max_bytes:
            return
        projected = np.empty((n, self.filter.n_columns), np.float32)

        def project(start: int, stop: int) -> None:
            projected[start:stop] = self.filter.project(self.vectors.read(start, stop))

        self._pool.run(project, n, BLOCK_ROWS)
        self.held = projected

    def unload(self) -> None:
        """Free the memory of rows and projected rows until `load`."""
        self.vectors.unload()
        self.held = None
        self._cache = BlockCache(self._max_bytes)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return some of the rows (m, d), read cell by cell where they are not in memory."""
        if self.vectors.resident:
            return np.take(self.vectors.read(0, self.vectors.n_rows), rows, axis=0)
        gathered = np.empty((len(rows), self.vectors.n_dims), np.float32)
        cells = np.searchsorted(self._offsets, rows, side="right") - 1
        for cell in np.unique(cells):
            in_cell = np.flatnonzero(cells == cell)
            low, high = int(rows[in_cell].min()), int(rows[in_cell].max())
            gathered[in_cell] = self.vectors.read(low, high + 1)[rows[in_cell] - low]
        return gathered

    def gather_projected(self, rows: np.ndarray) -> np.ndarray:
        """Return some of the projected rows (m, n_columns)."""
        if self.held is not None and self.filter.axes is not None:
            return np.take(self.held, rows, axis=0)
        return self.filter.project(self.gather(rows))

    def project(self, start: int, stop: int) -> np.ndarray:
        """Return the projected rows `start` to `stop`."""
        if self.held is not None and self.filter.axes is not None:
            return self.held[start:stop]
        return self.filter.project(self.vectors.read(start, stop))

    def blocks(self, cell: int, members: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield some rows of a cell, ascending, in blocks: the rows, a block of projected rows, and their places there.

        The blocks of a cell are cached.
        """
        first, stop = int(self._offsets[cell]), int(self._offsets[cell + 1])
        for start in range(first, stop, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, stop)
            inside = members[slice(*np.searchsorted(members, (start, end)))]
            if len(inside):
                yield inside, self._cache.get(start, partial(self.project, start, end)), inside - np.int32(start)


def scale_queries(projected: np.ndarray, correlation: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Return projected queries, scaled so that their products with targets are distances, and their squared norms."""
    scaled, norms = np.empty_like(projected), np.empty(len(projected), np.float32)
    no_center = np.zeros(projected.shape[1] - 1, np.float32)
    kernels.center_queries(projected, np.arange(len(projected)), no_center, correlation, scaled, norms)
    return scaled, norms
