"""Queries against the rows of the cells that they probe: products to find what is near, then true distances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.row_cache import CellRows, ResidentRows, ranges
from nomad_dask.backends.gpu.runtime import Runtime

GROUP_ROWS = 1 << 14
"""Rows searched for together, at most."""
PIECE_ROWS = 1 << 12
"""Rows of a cell that are multiplied at one time, at most."""


@dataclass(frozen=True)
class Queries:
    """Rows searched for together, and what was found for them so far, all on the device.

    Attributes
    ----------
    vectors : array of float32 (m, d)
    own : array of int32 (m,)
        Their numbers.
    screened, candidates : array of float32, int32 (m, kept)
        The nearest by products.
    distances, ids : array of float32, int32 (m, k)
        The nearest of the candidates.
    """

    vectors: Any
    own: Any
    screened: Any
    candidates: Any
    distances: Any
    ids: Any


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query and a cell that it probes, sorted by cell; all but `edges` on the device.

    Attributes
    ----------
    ordered, place : array of int32 (m, width), (m · width,)
        The cells of each query, and where each pair is in sorted order.
    query, cell : array of int32 (m · width,)
        Of each pair in sorted order.
    edges : ndarray of int64 (cells + 1,)
        Where the pairs of each cell begin.
    centers : array of float32 (cells, d)
        Where each cell's rows are seen from.
    """

    ordered: Any
    place: Any
    query: Any
    cell: Any
    edges: np.ndarray
    centers: Any


class CellProducts:
    """Buffers for products, and the search that uses them.

    Parameters
    ----------
    runtime : Runtime
    n_rows, n_dims, n_cells : int
        Of the shard.
    scratch_bytes : int
        Device memory to use; buffers take three quarters of it at most.
    """

    def __init__(self, runtime: Runtime, n_rows: int, n_dims: int, n_cells: int, scratch_bytes: int) -> None:
        self._runtime = runtime
        self._n_dims = n_dims
        # Tensor cores want rows of a multiple of 16 bytes.
        self._pitch = -(-n_dims // 8) * 8
        self.group_rows = max(32, min(GROUP_ROWS, n_rows, scratch_bytes // 16 // (4 * n_dims)))
        halves = max(self.group_rows, scratch_bytes // 4 // (2 * self._pitch))
        floats = max(4 * self.group_rows, scratch_bytes // 4 // 4)
        self.piece_rows = max(1, min(PIECE_ROWS, halves, floats // self.group_rows // 4 * 4))
        # A group with every cell needs no more than this.
        self._n_halves = min(halves, max(self.group_rows * n_cells, n_rows))
        self._n_floats = min(floats, self.group_rows * (n_rows + 4 * n_cells))
        xp = runtime.xp
        self._queries = xp.empty((self._n_halves, self._pitch), np.uint16)
        self._targets = xp.empty((self._n_halves, self._pitch), np.uint16)
        self._query_lengths = xp.empty(self._n_halves, np.float32)
        self._target_lengths = xp.empty(self._n_halves, np.float32)
        self._products = xp.empty(self._n_floats, np.float32)

    def search(
        self, queries: Queries, rows: CellRows, first: np.ndarray, sizes: np.ndarray, centers: Any, ordered: Any
    ) -> None:
        """Merge into the lists of the queries what is near in the cells that each probes.

        Parameters
        ----------
        queries : Queries
            At most `group_rows`.
        rows : CellRows
        first, sizes : ndarray of int64 (cells,)
            First row and rows of some cells, ascending.
        centers : array of float32 (cells, d)
            Where the rows of each are seen from; any point near them will do.
        ordered : array of int32 (m, width)
            Which of the cells each query probes, none twice; -1 for none.
        """
        xp, runtime = self._runtime.xp, self._runtime
        flat = ordered.ravel()
        order = xp.argsort(flat, kind="stable")
        of_pair = flat[order]
        place = xp.empty(flat.size, np.int32)
        place[order] = xp.arange(flat.size, dtype=np.int32)
        edges = runtime.download(xp.searchsorted(of_pair, xp.arange(len(first) + 1, dtype=np.int32)))
        pairs = _Pairs(ordered, place, (order // ordered.shape[1]).astype(np.int32), of_pair, edges, centers)
        asked = np.flatnonzero(np.diff(edges) > 0)
        # A cell appears once in a round, so that a query's products of one cell are in one place.
        while len(asked):
            n_rows = np.minimum(sizes[asked], self.piece_rows)
            for load in rows.loads(first[asked], n_rows):
                here, lengths = asked[load.part], n_rows[load.part]
                for batch in self._batches(np.diff(edges)[here], lengths, here):
                    self._scan(queries, pairs, load.rows, load.starts[batch], first, here[batch], lengths[batch])
                if load.places is not None:
                    self._rank(queries, load.rows, load.places)
            first, sizes = first + self.piece_rows, sizes - self.piece_rows
            asked = asked[sizes[asked] > 0]
        if isinstance(rows, ResidentRows):
            self._rank(queries, rows.rows, None)

    def _batches(self, n_pairs: np.ndarray, n_rows: np.ndarray, cells: np.ndarray) -> Iterator[slice]:
        """Yield runs of cells that come after one another and whose products fit in the buffers."""
        start = held_floats = held_pairs = held_rows = 0
        for i, (pairs, rows) in enumerate(zip(n_pairs.tolist(), n_rows.tolist(), strict=True)):
            floats = pairs * _padded(rows)
            full = held_floats + floats > self._n_floats or max(held_pairs + pairs, held_rows + rows) > self._n_halves
            if i > start and (full or cells[i] != cells[i - 1] + 1):
                yield slice(start, i)
                start, held_floats, held_pairs, held_rows = i, 0, 0, 0
            held_floats, held_pairs, held_rows = held_floats + floats, held_pairs + pairs, held_rows + rows
        yield slice(start, len(n_rows))

    def _scan(
        self,
        queries: Queries,
        pairs: _Pairs,
        rows: Any,
        starts: np.ndarray,
        first: np.ndarray,
        cells: np.ndarray,
        n_rows: np.ndarray,
    ) -> None:
        """Multiply a batch of cells with the queries that probe them, and merge what is near into their lists."""
        runtime, d = self._runtime, self._n_dims
        n_pairs = pairs.edges[cells + 1] - pairs.edges[cells]
        base, end = int(pairs.edges[cells[0]]), int(pairs.edges[cells[-1] + 1])
        pitches = _padded(n_rows)
        targets = np.cumsum(n_rows) - n_rows
        products = np.cumsum(n_pairs * pitches) - n_pairs * pitches
        tiles = np.zeros((len(first), 6), np.int64)
        tiles[cells] = np.stack([products, pitches, n_rows, targets, first[cells], pairs.edges[cells]], axis=1)
        picks = self._put(np.stack([ranges(starts, n_rows), np.repeat(cells, n_rows).astype(np.int32)]))
        n_targets = np.int64(n_rows.sum())
        runtime.launch(
            "center_rows", 2, 32 * int(n_targets), rows, picks[0], picks[1], pairs.centers, n_targets, np.int32(d),
            np.int32(self._pitch), self._targets, self._target_lengths,
        )  # fmt: skip
        runtime.launch(
            "center_rows", 2, 32 * (end - base), queries.vectors, pairs.query[base:end], pairs.cell[base:end],
            pairs.centers, np.int64(end - base), np.int32(d), np.int32(self._pitch), self._queries,
            self._query_lengths,
        )  # fmt: skip
        jobs = np.stack([pairs.edges[cells] - base, n_pairs, targets, n_rows, products, pitches], axis=1)
        runtime.multiply_half(self._queries, self._targets, self._products, jobs)
        m, width = pairs.ordered.shape
        runtime.launch(
            "scan", 2, 32 * m, self._products, self._query_lengths, self._target_lengths, pairs.ordered, pairs.place,
            self._put(tiles), queries.own, np.int64(m), np.int32(width), np.int64(base),
            np.int32(queries.screened.shape[1]), queries.screened, queries.candidates,
        )  # fmt: skip

    def _put(self, array: np.ndarray) -> Any:
        """Return a copy on the device, without waiting for the work before it."""
        target = self._runtime.xp.empty(array.shape, array.dtype)
        self._runtime.upload_into(target, array)
        return target

    def _rank(self, queries: Queries, rows: Any, places: Any) -> None:
        """Take the true distances of the candidates that are in `rows`."""
        m, kept = queries.candidates.shape
        self._runtime.launch(
            "rank_candidates", 2, 32 * m, queries.vectors, rows, places, queries.candidates, np.int64(m),
            np.int32(kept), np.int32(self._n_dims), np.int32(queries.ids.shape[1]), queries.distances, queries.ids,
        )  # fmt: skip


def _padded(n_rows: Any) -> Any:
    """Return floats from one query's products to the next's: a multiple of 16 bytes."""
    return -(-n_rows // 4) * 4
