"""Search of queries among the rows of the cells that they probe.

Products of queries and rows select candidates, whose exact distances are then computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.cell_index import expand_ranges
from nomad_dask.backends.gpu.row_cache import CellRows, ResidentRows, RowBatch
from nomad_dask.backends.gpu.runtime import Runtime

GROUP_ROWS = 1 << 14
"""Largest number of queries searched together."""
PIECE_ROWS = 1 << 12
"""Largest number of rows of a cell that are multiplied at a time."""


@dataclass(frozen=True)
class Queries:
    """Rows that are searched together, and their results so far, all on the device.

    Attributes
    ----------
    vectors : array of float32 (m, d)
    rows : array of int32 (m,)
        The row numbers of the queries.
    approximate, candidates : array of float32, int32 (m, n_candidates)
        The nearest rows by products: approximate distances and row numbers.
    distances, ids : array of float32, int32 (m, k)
        The nearest of the candidates by exact distances.
    """

    vectors: Any
    rows: Any
    approximate: Any
    candidates: Any
    distances: Any
    ids: Any


@dataclass(frozen=True)
class ProbedCells:
    """Cells, and which of them each query probes.

    Attributes
    ----------
    first, sizes : ndarray of int64 (n_cells,)
        First row and number of rows of each cell, ascending.
    centers : array of float32 (n_cells, d)
        Origin for the products of each cell; any point near its rows is suitable.
    by_query : array of int32 (m, width)
        The cells of each query, without duplicates; -1 for none.
    """

    first: np.ndarray
    sizes: np.ndarray
    centers: Any
    by_query: Any


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query and a cell that it probes, sorted by cell; all but `offsets` on the device.

    Attributes
    ----------
    by_query : array of int32 (m, width)
        The cells of each query.
    position : array of int32 (m · width,)
        Position of each pair in the sorted order.
    query, cell : array of int32 (m · width,)
        Of each pair in the sorted order.
    offsets : ndarray of int64 (n_cells + 1,)
        The pairs of cell c are ``offsets[c]`` to ``offsets[c + 1]``.
    centers : array of float32 (n_cells, d)
    """

    by_query: Any
    position: Any
    query: Any
    cell: Any
    offsets: np.ndarray
    centers: Any


@dataclass(frozen=True)
class _CellRanges:
    """Ranges of rows on the device, one per cell, that are multiplied together.

    Attributes
    ----------
    cells : ndarray of int64 (b,)
        Successive cells.
    first, starts, n_rows : ndarray of int64 (b,)
        First row of each range, its start in `rows`, and its number of rows.
    rows : array of float32
    """

    cells: np.ndarray
    first: np.ndarray
    starts: np.ndarray
    n_rows: np.ndarray
    rows: Any


class CellProducts:
    """Buffers for products, and the search that uses them.

    Parameters
    ----------
    runtime : Runtime
    n_rows, n_dims, n_cells : int
        Of the shard.
    scratch_bytes : int
        Device memory to use; the buffers take at most three quarters of it.
    """

    def __init__(self, runtime: Runtime, n_rows: int, n_dims: int, n_cells: int, scratch_bytes: int) -> None:
        self._runtime = runtime
        self._n_dims = n_dims
        # Tensor cores need rows of a multiple of 16 bytes.
        self._pitch = -(-n_dims // 8) * 8
        self.group_rows = max(32, min(GROUP_ROWS, n_rows, scratch_bytes // 16 // (4 * n_dims)))
        half_rows = max(self.group_rows, scratch_bytes // 4 // (2 * self._pitch))
        floats = max(4 * self.group_rows, scratch_bytes // 4 // 4)
        self.piece_rows = max(1, min(PIECE_ROWS, half_rows, floats // self.group_rows // 4 * 4))
        # A group that probes every cell needs no more than this.
        self._half_rows = min(half_rows, max(self.group_rows * n_cells, n_rows))
        self._n_floats = min(floats, self.group_rows * (n_rows + 4 * n_cells))
        xp = runtime.xp
        self._queries = xp.empty((self._half_rows, self._pitch), np.uint16)
        self._targets = xp.empty((self._half_rows, self._pitch), np.uint16)
        self._query_lengths = xp.empty(self._half_rows, np.float32)
        self._target_lengths = xp.empty(self._half_rows, np.float32)
        self._products = xp.empty(self._n_floats, np.float32)

    def search(self, queries: Queries, rows: CellRows, probed: ProbedCells) -> None:
        """Merge the nearest rows of the probed cells into the results of the queries, at most `group_rows`."""
        pairs = self._sort_pairs(probed)
        n_pairs = np.diff(pairs.offsets)
        first, sizes = probed.first, probed.sizes
        active = np.flatnonzero(n_pairs > 0)
        # Each round takes one piece of every cell, so that the products of a query and a cell are contiguous.
        while len(active):
            n_rows = np.minimum(sizes[active], self.piece_rows)
            for batch in rows.load_batches(first[active], n_rows):
                cells, lengths = active[batch.part], n_rows[batch.part]
                for run in self._split_runs(n_pairs[cells], lengths, cells):
                    ranges = _CellRanges(
                        cells[run], first[cells[run]], batch.starts[run], lengths[run], batch.rows
                    )  # fmt: skip
                    self._select_candidates(queries, pairs, ranges, len(first))
                if batch.positions is not None:
                    self._rank_candidates(queries, batch)
            first, sizes = first + self.piece_rows, sizes - self.piece_rows
            active = active[sizes[active] > 0]
        if isinstance(rows, ResidentRows):
            self._rank_candidates(queries, RowBatch(slice(0), rows.rows, first, None))

    def _sort_pairs(self, probed: ProbedCells) -> _Pairs:
        xp = self._runtime.xp
        flat = probed.by_query.ravel()
        order = xp.argsort(flat, kind="stable")
        cell = flat[order]
        position = xp.empty(flat.size, np.int32)
        position[order] = xp.arange(flat.size, dtype=np.int32)
        offsets = self._runtime.download(xp.searchsorted(cell, xp.arange(len(probed.first) + 1, dtype=np.int32)))
        query = (order // probed.by_query.shape[1]).astype(np.int32)
        return _Pairs(probed.by_query, position, query, cell, offsets, probed.centers)

    def _split_runs(self, n_pairs: np.ndarray, n_rows: np.ndarray, cells: np.ndarray) -> Iterator[slice]:
        """Yield runs of successive cells whose products fit in the buffers."""
        start = total_floats = total_pairs = total_rows = 0
        for i, (pairs, rows) in enumerate(zip(n_pairs.tolist(), n_rows.tolist(), strict=True)):
            floats = pairs * _pad(rows)
            rows_full = max(total_pairs + pairs, total_rows + rows) > self._half_rows
            full = total_floats + floats > self._n_floats or rows_full
            if i > start and (full or cells[i] != cells[i - 1] + 1):
                yield slice(start, i)
                start, total_floats, total_pairs, total_rows = i, 0, 0, 0
            total_floats, total_pairs, total_rows = total_floats + floats, total_pairs + pairs, total_rows + rows
        yield slice(start, len(n_rows))

    def _select_candidates(self, queries: Queries, pairs: _Pairs, ranges: _CellRanges, n_cells: int) -> None:
        """Multiply ranges with the queries that probe their cells, and merge the nearest rows into the candidates."""
        runtime, cells, n_rows = self._runtime, ranges.cells, ranges.n_rows
        n_pairs = pairs.offsets[cells + 1] - pairs.offsets[cells]
        base, end = int(pairs.offsets[cells[0]]), int(pairs.offsets[cells[-1] + 1])
        self._center_targets(pairs, ranges)
        self._center_queries(queries, pairs, base, end)
        pitches = _pad(n_rows)
        targets = np.cumsum(n_rows) - n_rows
        products = np.cumsum(n_pairs * pitches) - n_pairs * pitches
        jobs = np.stack([pairs.offsets[cells] - base, n_pairs, targets, n_rows, products, pitches], axis=1)
        tiles = np.zeros((n_cells, 6), np.int64)  # `struct Tile` of the kernels
        tiles[cells] = np.stack([products, pitches, n_rows, targets, ranges.first, pairs.offsets[cells]], axis=1)
        device_tiles = self._upload(tiles)
        runtime.multiply_half(self._queries, self._targets, self._products, jobs)
        m, width = pairs.by_query.shape
        runtime.launch(
            "scan", 2, 32 * m, self._products, self._query_lengths, self._target_lengths, pairs.by_query,
            pairs.position, device_tiles, queries.rows, np.int64(m), np.int32(width), np.int64(base),
            np.int32(queries.approximate.shape[1]), queries.approximate, queries.candidates,
        )  # fmt: skip

    def _center_targets(self, pairs: _Pairs, ranges: _CellRanges) -> None:
        """Write the rows of the ranges, relative to the centers of their cells, as unit vectors and lengths."""
        n_rows = ranges.n_rows
        cell_of_row = np.repeat(ranges.cells, n_rows).astype(np.int32)
        picks = self._upload(np.stack([expand_ranges(ranges.starts, n_rows), cell_of_row]))
        n_targets = np.int64(n_rows.sum())
        self._runtime.launch(
            "center_rows", 2, 32 * int(n_targets), ranges.rows, picks[0], picks[1], pairs.centers, n_targets,
            np.int32(self._n_dims), np.int32(self._pitch), self._targets, self._target_lengths,
        )  # fmt: skip

    def _center_queries(self, queries: Queries, pairs: _Pairs, base: int, end: int) -> None:
        """Write the queries of the pairs `base` to `end` in the same form."""
        self._runtime.launch(
            "center_rows", 2, 32 * (end - base), queries.vectors, pairs.query[base:end], pairs.cell[base:end],
            pairs.centers, np.int64(end - base), np.int32(self._n_dims), np.int32(self._pitch), self._queries,
            self._query_lengths,
        )  # fmt: skip

    def _upload(self, array: np.ndarray) -> Any:
        """Return a copy on the device, without waiting for earlier work."""
        target = self._runtime.xp.empty(array.shape, array.dtype)
        self._runtime.upload_into(target, array)
        return target

    def _rank_candidates(self, queries: Queries, batch: RowBatch) -> None:
        """Compute the exact distances of the candidates that are in a batch, and merge them into the results."""
        m, n_candidates = queries.candidates.shape
        self._runtime.launch(
            "rank_candidates", 2, 32 * m, queries.vectors, batch.rows, batch.positions, queries.candidates,
            np.int64(m), np.int32(n_candidates), np.int32(self._n_dims), np.int32(queries.ids.shape[1]),
            queries.distances, queries.ids,
        )  # fmt: skip


def _pad(n_rows: Any) -> Any:
    """Return the offset between the products of successive queries: a multiple of 16 bytes."""
    return -(-n_rows // 4) * 4
