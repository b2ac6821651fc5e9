"""The primitives of the neighbor search on the GPU.

Groups of nearby rows are searched together. Their nearest cells are chosen by distances to the centroids. All pairs
of a query and a cell are then sorted by cell, so that the rows of a cell and its queries are multiplied at once, in
half precision and relative to the center of the cell. A kernel keeps the nearest rows by these products for each
query, and another computes their exact distances in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.cell_index import NEAR_CELLS, CellIndex, expand_ranges, split_ranges
from nomad_dask.backends.data import ListLengths, NeighborLists
from nomad_dask.backends.gpu import projection
from nomad_dask.backends.gpu.batched_gemm import CellProducts, ProbedCells, Queries
from nomad_dask.backends.gpu.nearest_cells import nearest_cells, nearest_columns
from nomad_dask.backends.gpu.row_cache import CellRows, ResidentRows, StreamedRows
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.row_reader import ShardVectors

FILTER_DEPTH = 512
"""Largest rank that `filter_ranks` returns."""
_ORDER_AXES = 16
_MAX_SCRATCH_BYTES = 2 << 30
# Rows that need at most this share of the free memory stay on the device.
_RESIDENT_SHARE = 0.7


@dataclass(frozen=True)
class _LoadedRows:
    """The device memory of a search: rows, buffers for products, and bytes for other scratch arrays."""

    rows: CellRows
    products: CellProducts
    scratch_bytes: int


class GpuCellSearch(CellIndex):
    """Rows of one shard in cell order, and the primitives of a neighbor search over them.

    Rows that fit in the device's memory stay there, others are streamed from the shard's files.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells; those of empty cells are ignored.
    runtime : Runtime
    seed : int
        Affects only the order in which rows are searched.
    memory_bytes : int
        Host memory to use, apart from the results.
    n_queries : int, optional
        The first `n_queries` rows (whole cells) are searched for; all rows can be neighbors. None for all.
    """

    def __init__(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        runtime: Runtime,
        seed: int,
        memory_bytes: int,
        n_queries: int | None = None,
    ) -> None:
        super().__init__(vectors, cell_offsets, centroids, memory_bytes, n_queries)
        self.runtime = runtime
        self.seed = seed
        self._loaded_rows: _LoadedRows | None = None

    def build_filter(self, n_axes: int | None) -> None:
        """Upload the cells and load the rows; the filter uses all dimensions, and ignores `n_axes`."""
        runtime = self.runtime
        # Distances are computed relative to the center: far from it they would lose precision.
        self._center = runtime.upload(self._centroids.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._cells = runtime.upload(self._centroids) - self._center
        self._cell_norms = (self._cells * self._cells).sum(axis=1)
        self._order = self._order_queries()
        self.load()

    def split_cells(self, part_rows: int) -> None:
        """Do nothing: on a GPU, products with larger cells are faster."""

    def load(self) -> None:
        """Load all rows to the device if they fit; otherwise prepare to stream them."""
        self.unload()  # before free memory is measured
        n, d, runtime = self.vectors.n_rows, self.vectors.n_dims, self.runtime
        free = runtime.free_bytes()
        resident = 4 * n * d <= _RESIDENT_SHARE * free
        scratch = min(_MAX_SCRATCH_BYTES, (free - 4 * n * d if resident else free) // 4)
        products = CellProducts(runtime, n, d, self.n_cells, scratch)
        if resident:
            rows: CellRows = ResidentRows(self.vectors, runtime)
        else:
            self.vectors.load()
            batch_bytes = min(free // 8, max(self.memory_bytes // 4, 4 * d * products.piece_rows))
            rows = StreamedRows(self.vectors, runtime, free // 4, batch_bytes)
        self._loaded_rows = _LoadedRows(rows, products, scratch)

    def unload(self) -> None:
        """Free the memory of the rows, on the device and on the host, until `load`."""
        self.vectors.unload()
        self._loaded_rows = None

    @property
    def _loaded(self) -> _LoadedRows:
        assert self._loaded_rows is not None  # noqa: S101 - `build_filter` or `load` is called first
        return self._loaded_rows

    def can_refine(self, k: int) -> bool:
        """Return False: on a GPU, more probes take less time than NN-descent rounds."""
        return False

    def refine(self, lists: NeighborLists, n_probes: int, max_candidates: int, n_trials: int) -> NeighborLists:
        """Raise NotImplementedError; see `can_refine`."""
        raise NotImplementedError("the search on the GPU has no NN-descent rounds: check `can_refine` first")

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Do nothing: products of all dimensions are distances except for rounding."""

    # --- true neighbors of a sample -------------------------------------------------------------------

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of each of `rows` in the shard, and their squared distances."""
        ids, distances = np.empty((len(rows), k), np.int32), np.empty((len(rows), k), np.float32)
        for part in self._groups(len(rows)):
            queries = self._queries(rows[part], min(4 * k + 64, self.vectors.n_rows), k)
            self._search_all(queries)
            ids[part], distances[part] = self.runtime.download(queries.ids), self.runtime.download(queries.distances)
        return ids, distances

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many cells are nearer to each of `rows` than the cells of its neighbors `ids` (n, k)."""
        xp = self.runtime.xp
        ranks = np.empty(ids.shape, np.int64)
        step = max(1, self._loaded.scratch_bytes // 8 // (32 * self.n_cells))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            to_cells = self._cell_norms - 2 * ((self._gather(rows[part]) - self._center) @ self._cells.T)
            order = xp.argsort(xp.argsort(to_cells, axis=1, kind="stable"), axis=1, kind="stable")
            cells = self.runtime.upload(self._cell_of(ids[part]))
            ranks[part] = self.runtime.download(xp.take_along_axis(order, cells, axis=1))
        return ranks

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many rows the products rank before the neighbors `ids` (n, k) of each of `rows`.

        At most `FILTER_DEPTH`, or 2·k if that is larger.
        """
        ranks = np.empty(ids.shape, np.int64)
        depth = min(max(FILTER_DEPTH, 2 * ids.shape[1]), self.vectors.n_rows)
        for part in self._groups(len(rows)):
            queries = self._queries(rows[part], depth, 1)
            self._search_all(queries)
            candidates = self.runtime.download(queries.candidates)
            for i, row in enumerate(candidates, part.start):
                same = ids[i][:, None] == row
                ranks[i] = np.where(same.any(axis=1), same.argmax(axis=1), depth)
        return ranks

    # --- the search ---------------------------------------------------------------------------------

    def probe(
        self, lengths: ListLengths, n_probes: int, n_candidates: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the nearest rows in the `n_probes` nearest cells of each row, their squared distances, and a tail.

        Rows that are not searched for have ids -1 and distances inf. Exact distances are computed for the
        `n_candidates` rows with the best products. A row whose cells contain fewer than k other rows probes more
        cells.
        """
        n, k = self.vectors.n_rows, lengths.k
        ids = np.full((n, k), -1, np.int32)
        distances = np.full((n, k), np.inf, np.float32)
        tail = np.full((n, lengths.n_tail), -1, np.int32)
        near = self._near_cells(max(NEAR_CELLS, 2 * n_probes)) if n_probes < self.n_cells else None
        for part in self._groups(len(self._order)):
            rows = self._order[part]
            queries = self._queries(rows, n_candidates, lengths.n_ranks)
            if n_probes >= self.n_cells:
                self._search_all(queries)
            else:
                cells = self._nearby_cells(np.unique(self._cell_of(rows)), near, k + 1)
                self._search(queries, cells, self._choose_cells(queries, cells, n_probes, k + 1))
            found = self.runtime.download(queries.ids)
            ids[rows], tail[rows] = found[:, :k], lengths.tail_of(found)
            distances[rows] = self.runtime.download(queries.distances)[:, :k]
            on_progress(part.start + len(rows))
        return ids, distances, tail

    def _near_cells(self, n_near: int) -> np.ndarray | None:
        """Return the cells (n_query_cells, n_near) near each cell that contains queries; None for all cells."""
        if n_near >= self.n_cells:
            return None
        query_cells = np.arange(np.searchsorted(self._first, self.n_queries))
        return self.runtime.download(nearest_cells(self._cells, query_cells, n_near, self.runtime)).astype(np.int64)

    def _nearby_cells(self, own: np.ndarray, near: np.ndarray | None, min_rows: int) -> np.ndarray:
        """Return the cells, ascending, from which the rows of the cells `own` choose the cells to probe."""
        if near is None or self._sizes[near[own]].sum(axis=1).min() < min_rows:
            return np.arange(self.n_cells)
        return np.union1d(near[own].ravel(), own)

    def _choose_cells(self, queries: Queries, cells: np.ndarray, n_probes: int, min_rows: int) -> Any:
        """Return the indices (m, width) int32 among `cells` of those to probe, -1 for none.

        These are the nearest `n_probes` of each query, or twice as many, and so on, until they contain `min_rows`.
        """
        xp, runtime = self.runtime.xp, self.runtime
        n_probes = min(n_probes, len(cells))
        centers = self._cells[runtime.upload(cells)]
        sizes = runtime.upload(self._sizes[cells])
        any_suffice = int(np.sort(self._sizes[cells])[:n_probes].sum()) >= min_rows
        chunks = []
        step = max(1, self._loaded.scratch_bytes // 8 // (48 * len(cells)))
        for start in range(0, len(queries.rows), step):
            points = queries.vectors[start : start + step] - self._center
            chosen = nearest_columns(points, centers, n_probes, runtime)
            if not any_suffice and runtime.download(sizes[chosen].sum(axis=1).min()).item() < min_rows:
                ranked = nearest_columns(points, centers, len(cells), runtime)
                chosen = self._double_until(ranked, sizes, n_probes, min_rows)
            chunks.append(chosen)
        width = max(chosen.shape[1] for chosen in chunks)
        by_query = xp.full((len(queries.rows), width), -1, np.int32)
        for i, chosen in enumerate(chunks):
            by_query[i * step : i * step + len(chosen), : chosen.shape[1]] = chosen
        return by_query

    def _double_until(self, ranked: Any, sizes: Any, n_probes: int, min_rows: int) -> Any:
        """Return the first cells of each row of `ranked` (m, n_cells), twice `n_probes` and so on; -1 for the rest."""
        xp, n_cells = self.runtime.xp, len(sizes)
        needed = 1 + (xp.cumsum(sizes[ranked], axis=1) < min_rows).sum(axis=1)
        width = xp.full(len(ranked), n_probes, np.int64)
        for _ in range(int(np.ceil(np.log2(n_cells / n_probes)))):
            width = xp.where(width < needed, 2 * width, width)
        columns = xp.arange(n_cells, dtype=np.int64)
        max_width = self.runtime.download(width.max()).item()
        return xp.where(columns < width[:, None], ranked, np.int32(-1))[:, :max_width]

    def _groups(self, n_rows: int) -> Iterator[slice]:
        """Yield slices of at most as many rows as are searched together."""
        step = self._loaded.products.group_rows
        for start in range(0, n_rows, step):
            yield slice(start, start + step)

    def _queries(self, rows: np.ndarray, n_candidates: int, k: int) -> Queries:
        """Return queries for rows, with empty results."""
        xp, m = self.runtime.xp, len(rows)
        return Queries(
            vectors=self._gather(rows),
            rows=self.runtime.upload(rows.astype(np.int32)),
            approximate=xp.full((m, n_candidates), np.inf, np.float32),
            candidates=xp.full((m, n_candidates), -1, np.int32),
            distances=xp.full((m, k), np.inf, np.float32),
            ids=xp.full((m, k), -1, np.int32),
        )

    def _search_all(self, queries: Queries) -> None:
        """Search all cells, a part at a time."""
        m = len(queries.rows)
        step = max(1, self._loaded.scratch_bytes // 8 // (32 * m))
        for start in range(0, self.n_cells, step):
            cells = np.arange(start, min(start + step, self.n_cells))
            columns = self.runtime.xp.arange(len(cells), dtype=np.int32)[None, :]
            self._search(queries, cells, self.runtime.xp.repeat(columns, m, axis=0))

    def _search(self, queries: Queries, cells: np.ndarray, by_query: Any) -> None:
        """Search for each query the cells ``cells[by_query]``, without duplicates."""
        centers = self._cells[self.runtime.upload(cells)] + self._center
        probed = ProbedCells(self._first[cells], self._sizes[cells], centers, by_query)
        self._loaded.products.search(queries, self._loaded.rows, probed)

    def _gather(self, rows: np.ndarray) -> Any:
        """Return the vectors (m, d) of `rows` (m,) on the device."""
        cells = np.unique(self._cell_of(rows))
        _, first, n_rows = split_ranges(self._first[cells], self._sizes[cells], self._loaded.products.piece_rows)
        return self._loaded.rows.gather(np.asarray(rows, np.int32), first, n_rows)

    def _order_queries(self) -> np.ndarray:
        """Return the rows to search for, cell by cell, so that successive cells are near each other."""
        axes = projection.fit_axes(self._centroids, min(_ORDER_AXES, self.vectors.n_dims), self.seed, self.runtime)
        coordinates = projection.project(self._centroids, axes, self.runtime)
        cells = self._order_cells(coordinates)
        return expand_ranges(self._first[cells], self._sizes[cells])
