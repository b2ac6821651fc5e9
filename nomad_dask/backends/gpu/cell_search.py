"""The primitives of the neighbour search on the GPU.

Near rows are searched together, in groups. Their nearest cells are chosen by distances to the centroids; then
all pairs of a query and a cell are sorted by cell, so that a cell's rows meet its queries in one product of
half precision, with the cell's centre as the origin. A kernel keeps the nearest by these products for each
query, another takes their true distances in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.cell_index import NEAR_CELLS, CellIndex
from nomad_dask.backends.gpu import projection
from nomad_dask.backends.gpu.batched_gemm import CellProducts, Queries
from nomad_dask.backends.gpu.row_cache import CellRows, ResidentRows, StreamedRows, ranges
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.row_reader import ShardVectors

SCREEN_DEPTH = 512
"""Rows that `filter_ranks` can tell apart."""
_LISTED = 1024  # as many columns are selected by lists; more, or most of them, by sorting
_TOUR_AXES = 16
_MAX_SCRATCH = 2 << 30
_HELD_SHARE = 0.7


@dataclass(frozen=True)
class _Held:
    """What takes memory of the device: rows, and buffers for products with them."""

    rows: CellRows
    products: CellProducts


class GpuCellSearch(CellIndex):
    """Rows of one shard in cell order, and what a search needs to ask of them.

    Rows that fit in the device's memory are held there, others stream from the shard's files.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells; those of empty cells are not looked at.
    runtime : Runtime
    seed : int
        Decides nothing but the order in which rows are searched.
    memory_bytes : int
        Host memory to stay within, the results apart.
    n_queries : int, optional
        The first so many rows (whole cells) are searched for; the others are only found. None takes all.
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
        self._on_device: _Held | None = None

    def build_filter(self, n_axes: int | None) -> None:
        """Take up the cells, and the rows by `load`: products have all dimensions, whatever `n_axes`."""
        runtime = self.runtime
        # Seen from their middle, far from which distances would lose their digits.
        self._middle = runtime.upload(self._centroids.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._cells = runtime.upload(self._centroids) - self._middle
        self._cell_norms = (self._cells * self._cells).sum(axis=1)
        self._tour = self._tour_of_rows()
        self.load()

    def load(self) -> None:
        """Bring the rows, or as many as there is room for, to the device."""
        self.unload()  # before memory is counted
        n, d, runtime = self.vectors.n_rows, self.vectors.n_dims, self.runtime
        free = runtime.free_bytes()
        held = 4 * n * d <= _HELD_SHARE * free
        scratch = min(_MAX_SCRATCH, (free - 4 * n * d if held else free) // 4)
        self._scratch = scratch
        products = CellProducts(runtime, n, d, self.n_cells, scratch)
        if held:
            rows: CellRows = ResidentRows(self.vectors, runtime)
        else:
            self.vectors.load()
            load = min(free // 8, max(self.memory_bytes // 4, 4 * d * products.piece_rows))
            rows = StreamedRows(self.vectors, runtime, free // 4, load)
        self._on_device = _Held(rows, products)

    def unload(self) -> None:
        """Give the memory of the rows back, on the device and here, until `load`."""
        self.vectors.unload()
        self._on_device = None

    @property
    def _held(self) -> _Held:
        assert self._on_device is not None  # noqa: S101 - `build_filter` or `load` comes first
        return self._on_device

    def can_refine(self, k: int) -> bool:
        """Whether `refine` may be called: never, for on a GPU further probes take less time than rounds."""
        return False

    def refine(
        self, ids: np.ndarray, distances: np.ndarray, is_new: np.ndarray, max_candidates: int, n_trials: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Refuse: `can_refine` has said no."""
        raise NotImplementedError("the GPU's search has no rounds; ask `can_refine` first")

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Learn nothing: products of all dimensions are distances but for rounding."""

    # --- the truth about a sample -------------------------------------------------------------------

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of each of `rows` among all of the shard, and their squared distances."""
        ids, distances = np.empty((len(rows), k), np.int32), np.empty((len(rows), k), np.float32)
        for start in range(0, len(rows), self._held.products.group_rows):
            part = slice(start, start + self._held.products.group_rows)
            queries = self._queries(rows[part], min(4 * k + 64, self.vectors.n_rows), k)
            self._search_all(queries)
            ids[part], distances[part] = self.runtime.download(queries.ids), self.runtime.download(queries.distances)
        return ids, distances

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many cells are nearer to each of `rows` than the cell of its neighbours `ids` (n, k)."""
        xp = self.runtime.xp
        ranks = np.empty(ids.shape, np.int64)
        step = max(1, self._scratch // 8 // (32 * self.n_cells))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            to_cells = self._cell_norms - 2 * ((self._gather(rows[part]) - self._middle) @ self._cells.T)
            order = xp.argsort(xp.argsort(to_cells, axis=1, kind="stable"), axis=1, kind="stable")
            cells = self.runtime.upload(self._cell_of(ids[part]))
            ranks[part] = self.runtime.download(xp.take_along_axis(order, cells, axis=1))
        return ranks

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many rows the products take for nearer to each of `rows` than its neighbours `ids`.

        `SCREEN_DEPTH` where that many are.
        """
        ranks = np.empty(ids.shape, np.int64)
        depth = min(max(SCREEN_DEPTH, 2 * ids.shape[1]), self.vectors.n_rows)
        for start in range(0, len(rows), self._held.products.group_rows):
            part = slice(start, start + self._held.products.group_rows)
            queries = self._queries(rows[part], depth, 1)
            self._search_all(queries)
            found = self.runtime.download(queries.candidates)
            for i, row in enumerate(found, start):
                same = ids[i][:, None] == row
                ranks[i] = np.where(same.any(axis=1), same.argmax(axis=1), depth)
        return ranks

    # --- the search ---------------------------------------------------------------------------------

    def probe(
        self, k: int, n_probes: int, n_candidates: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's k nearest rows in its `n_probes` nearest cells, and their squared distances.

        Rows that are not searched for have no list: ids -1, distances inf.

        The products keep `n_candidates` of each row, which then get exact distances. A row whose cells hold
        no k rows beside it takes further cells.
        """
        n = self.vectors.n_rows
        ids = np.full((n, k), -1, np.int32)
        distances = np.full((n, k), np.inf, np.float32)
        near = self._near_cells(max(NEAR_CELLS, 2 * n_probes)) if n_probes < self.n_cells else None
        for start in range(0, len(self._tour), self._held.products.group_rows):
            rows = self._tour[start : start + self._held.products.group_rows]
            queries = self._queries(rows, max(n_candidates, k), k)
            if n_probes >= self.n_cells:
                self._search_all(queries)
            else:
                cells = self._cells_around(np.unique(self._cell_of(rows)), near, k + 1)
                self._search(queries, cells, self._choose_cells(queries, cells, n_probes, k + 1))
            ids[rows] = self.runtime.download(queries.ids)
            distances[rows] = self.runtime.download(queries.distances)
            on_progress(start + len(rows))
        return ids, distances

    def _near_cells(self, n_near: int) -> np.ndarray | None:
        """Return for each cell with rows to search for the cells (cells, n_near) near it; None for all."""
        if n_near >= self.n_cells:
            return None
        n_own = int(np.searchsorted(self._first, self.n_queries))
        near = np.empty((n_own, n_near), np.int64)
        step = max(1, self._scratch // 8 // (16 * self.n_cells))
        for start in range(0, n_own, step):
            chosen = self._nearest_columns(self._cells[start : min(start + step, n_own)], self._cells, n_near)
            near[start : start + step] = self.runtime.download(chosen)
        return near

    def _nearest_columns(self, points: Any, centers: Any, n_kept: int) -> Any:
        """Return the indices int32 (m, n_kept) of the centres nearest to each point, ascending."""
        xp = self.runtime.xp
        norms = (centers * centers).sum(axis=1)
        products = points @ centers.T
        if n_kept > min(_LISTED, len(centers) // 2):
            return xp.argsort(norms - 2 * products, axis=1, kind="stable")[:, :n_kept].astype(np.int32)
        values = xp.full((len(points), n_kept), np.inf, np.float32)
        columns = xp.full((len(points), n_kept), -1, np.int32)
        self.runtime.launch(
            "select_columns", 2, 32 * len(points), products, norms, np.int64(len(points)), np.int64(len(centers)),
            np.int32(n_kept), values, columns,
        )  # fmt: skip
        return columns

    def _cells_around(self, own: np.ndarray, near: np.ndarray | None, enough: int) -> np.ndarray:
        """Return the cells, ascending, among which the rows of the cells `own` choose theirs."""
        if near is None or self._sizes[near[own]].sum(axis=1).min() < enough:
            return np.arange(self.n_cells)
        return np.union1d(near[own].ravel(), own)

    def _choose_cells(self, queries: Queries, cells: np.ndarray, n_probes: int, enough: int) -> Any:
        """Return indices (m, width) int32 among `cells` of those to probe, -1 for none.

        Each query's nearest `n_probes`, or twice as many, and so on, to hold `enough` rows.
        """
        xp, runtime = self.runtime.xp, self.runtime
        n_probes = min(n_probes, len(cells))
        centers = self._cells[runtime.upload(cells)]
        sizes = runtime.upload(self._sizes[cells])
        safe = int(np.sort(self._sizes[cells])[:n_probes].sum()) >= enough
        chosen = []
        step = max(1, self._scratch // 8 // (48 * len(cells)))
        for start in range(0, len(queries.own), step):
            points = queries.vectors[start : start + step] - self._middle
            some = self._nearest_columns(points, centers, n_probes)
            if not safe and runtime.download(sizes[some].sum(axis=1).min()).item() < enough:
                some = self._nearest_columns(points, centers, len(cells))
                needed = 1 + (xp.cumsum(sizes[some], axis=1) < enough).sum(axis=1)
                width = xp.full(len(points), n_probes, np.int64)
                for _ in range(int(np.ceil(np.log2(len(cells) / n_probes)))):
                    width = xp.where(width < needed, 2 * width, width)
                columns = xp.arange(len(cells), dtype=np.int64)
                some = xp.where(columns < width[:, None], some, np.int32(-1))[:, : runtime.download(width.max()).item()]
            chosen.append(some)
        width = max(some.shape[1] for some in chosen)
        ordered = xp.full((len(queries.own), width), -1, np.int32)
        for i, some in enumerate(chosen):
            ordered[i * step : i * step + len(some), : some.shape[1]] = some
        return ordered

    def _queries(self, rows: np.ndarray, n_kept: int, k: int) -> Queries:
        """Return rows ready to be searched for, with empty lists."""
        xp, m = self.runtime.xp, len(rows)
        return Queries(
            self._gather(rows),
            self.runtime.upload(rows.astype(np.int32)),
            xp.full((m, n_kept), np.inf, np.float32),
            xp.full((m, n_kept), -1, np.int32),
            xp.full((m, k), np.inf, np.float32),
            xp.full((m, k), -1, np.int32),
        )

    def _search_all(self, queries: Queries) -> None:
        """Search all cells, some after others."""
        m = len(queries.own)
        step = max(1, self._scratch // 8 // (32 * m))
        for start in range(0, self.n_cells, step):
            cells = np.arange(start, min(start + step, self.n_cells))
            columns = self.runtime.xp.arange(len(cells), dtype=np.int32)[None, :]
            self._search(queries, cells, self.runtime.xp.repeat(columns, m, axis=0))

    def _search(self, queries: Queries, cells: np.ndarray, ordered: Any) -> None:
        """Search for each query the cells ``cells[ordered]``, none twice."""
        centers = self._cells[self.runtime.upload(cells)] + self._middle
        self._held.products.search(queries, self._held.rows, self._first[cells], self._sizes[cells], centers, ordered)

    def _gather(self, rows: np.ndarray) -> Any:
        """Return the rows (m, d) numbered `rows` on the device."""
        cells = np.unique(self._cell_of(rows))
        first, n_rows = _pieces(self._first[cells], self._sizes[cells], self._held.products.piece_rows)
        return self._held.rows.gather(np.asarray(rows, np.int32), first, n_rows)

    def _tour_of_rows(self) -> np.ndarray:
        """Return the rows to search for, cell after cell, so that near cells come after one another."""
        axes = projection.fit_axes(self._centroids, min(_TOUR_AXES, self.vectors.n_dims), self.seed, self.runtime)
        places = projection.project(self._centroids, axes, self.runtime)
        cells = self._tour_of_cells(places)
        return ranges(self._first[cells], self._sizes[cells])


def _pieces(first: np.ndarray, sizes: np.ndarray, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first rows and rows of the stretches that cells are cut in, ascending."""
    n = -(-sizes // piece)
    number = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
    return np.repeat(first, n) + number * piece, np.minimum(np.repeat(sizes, n) - number * piece, piece)
