"""The primitives of the neighbour search on the CPU: screen, probe, exact truth for a sample, refine.

Distances are first taken in a screen: the leading principal axes of the rows and the length of what these
leave out. Its nearest rows then get exact distances. Where the screen has all dimensions it is exact but
for rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from nomad_dask.backends.cell_index import NEAR_CELLS, CellIndex
from nomad_dask.backends.cpu import cell_search_kernels as kernels
from nomad_dask.backends.cpu.pca_filter import BLOCK_ROWS, BlockCache, PcaFilter, principal_axes
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import Threads

QUERIES = 2048
"""Rows searched in one task."""
AXES_ROWS = 4000
"""Rows from which the axes of the screen are found."""

REFINE_ROW_BYTES = 150
"""Memory that a round takes for each row besides the lists."""
REACHED = 0.98
"""Share of true neighbours whose screened distance is within reach."""


class CpuCellSearch(CellIndex):
    """Rows of one shard in cell order, and what a search needs to ask of them.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells; those of empty cells are not looked at.
    pool : Threads
        Runs the work; results do not depend on the number of its threads.
    seed : int
        Decides the rows from which the screen is made.
    memory_bytes : int
        Memory to stay within, the results apart.
    n_queries : int, optional
        The first so many rows (whole cells) are searched for; the others are only found. None takes all.
    """

    def __init__(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        pool: Threads,
        seed: int,
        memory_bytes: int,
        n_queries: int | None = None,
    ) -> None:
        super().__init__(vectors, cell_offsets, centroids, memory_bytes, n_queries)
        self.pool = pool
        self._rng = np.random.default_rng(seed)
        self.correlation = np.float32(1)
        self.reach = np.float32(np.inf)
        self._screen: np.ndarray | None = None
        self.unload()

    # --- the screen ---------------------------------------------------------------------------------

    def build_filter(self, n_axes: int | None) -> None:
        """Choose the axes of the screen, `n_axes` of them or all dimensions, and keep it if memory allows."""
        self.unload()
        self.vectors.load(self.pool.run)
        n = self.vectors.n_rows
        sample = np.sort(self._rng.choice(n, min(n, AXES_ROWS), replace=False))
        rows = self._gather(sample)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        axes = None if n_axes is None else principal_axes(rows - mean, n_axes, self._rng)
        self._axes = PcaFilter(mean, axes)
        self.correlation = np.float32(1)
        self.reach = np.float32(np.inf)
        self._cell_screen = self._axes.project(self._centroids)[:, :-1].copy()
        self._cell_norms = np.einsum("ij,ij->i", self._cell_screen, self._cell_screen)
        self._cells_in_turn = self._tour_of_cells(self._cell_screen)
        self.load()

    def load(self) -> None:
        """Take rows and screen into memory, each if it fits."""
        self.vectors.load(self.pool.run)
        n = self.vectors.n_rows
        self._tour = self._tour_of_rows()
        if n * self._axes.n_columns * 4 <= self.memory_bytes // 2:
            screen = np.empty((n, self._axes.n_columns), np.float32)

            def project(start: int, stop: int) -> None:
                screen[start:stop] = self._axes.project(self.vectors.read(start, stop))

            self.pool.run(project, n, BLOCK_ROWS)
            self._screen = screen

    def unload(self) -> None:
        """Give the memory of rows and screen back until `load`."""
        self.vectors.unload()
        self._tour = np.zeros(0, np.int32)
        self._screen = None
        self._cache = BlockCache(self.memory_bytes // 2)

    def can_refine(self, k: int) -> bool:
        """Whether rounds on lists of k are possible and of use.

        They need rows met in any order, and memory for a second copy.
        """
        if not self.vectors.resident or self._screen is None:
            return False
        needed = self._screen.nbytes + self.vectors.n_rows * (10 * k + REFINE_ROW_BYTES)
        return bool(needed <= self.memory_bytes)

    def _screened(self, start: int, stop: int) -> np.ndarray:
        if self._screen is not None:
            return self._screen[start:stop]
        return self._axes.project(self.vectors.read(start, stop))

    def _pieces_of_cell(self, cell: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the screened rows of pieces of a cell, small enough to multiply with."""
        first = int(self._first[cell])
        stop = first + int(self._sizes[cell])
        for start in range(first, stop, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, stop)
            if self._screen is not None:
                yield start, self._screen[start:end]
            else:
                yield start, self._cache.get(start, partial(self._screened, start, end))

    def _screened_rows(self, rows: np.ndarray) -> np.ndarray:
        if self._screen is not None:
            return np.take(self._screen, rows, axis=0)
        return self._axes.project(self._gather(rows))

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of `rows`, read cell by cell where the shard is not in memory."""
        if self.vectors.resident:
            everything = self.vectors.read(0, self.vectors.n_rows)
            return np.take(everything, rows, axis=0)
        gathered = np.empty((len(rows), self.vectors.n_dims), np.float32)
        cells = self._cell_of(rows)
        for cell in np.unique(cells):
            here = np.flatnonzero(cells == cell)
            low, high = int(rows[here].min()), int(rows[here].max())
            gathered[here] = self.vectors.read(low, high + 1)[rows[here] - low]
        return gathered

    def _tour_of_rows(self) -> np.ndarray:
        """Return the rows to search for, cell after cell, so that near cells come after one another."""
        firsts, sizes = self._first[self._cells_in_turn], self._sizes[self._cells_in_turn]
        return np.concatenate([np.arange(a, a + n, dtype=np.int32) for a, n in zip(firsts, sizes, strict=True)])

    # --- the truth about a sample -------------------------------------------------------------------

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of each of `rows` among all of the shard, and their squared distances.

        Every row is compared in the screen, whose distance is a lower bound; those below the k-th so far
        get their exact distance.
        """
        queries = self._gather(rows)
        turned, norms = self._turned(self._screened_rows(rows), np.float32(1))
        distances = np.full((len(rows), k), np.inf, np.float32)
        ids = np.full((len(rows), k), -1, np.int32)
        for start in range(0, self.vectors.n_rows, BLOCK_ROWS):
            block = self.vectors.read(start, min(start + BLOCK_ROWS, self.vectors.n_rows))
            targets = self._axes.project(block) if self._screen is None else self._screen[start : start + len(block)]
            target_norms = np.einsum("ij,ij->i", targets, targets)

            def scan(
                a: int,
                b: int,
                start: int = start,
                block: np.ndarray = block,
                targets: np.ndarray = targets,
                target_norms: np.ndarray = target_norms,
            ) -> None:
                bounds = turned[a:b] @ targets.T
                bounds += target_norms
                bounds += norms[a:b, None]
                kernels.scan_exactly(
                    queries[a:b], rows[a:b], bounds, block, start, norms[a:b], distances[a:b], ids[a:b]
                )

            self.pool.run(scan, len(rows), 64)
        return ids, distances

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many cells are nearer to each of `rows` than the cell of its neighbours `ids` (n, k)."""
        screened = self._screened_rows(rows)[:, :-1]
        to_cells = self._cell_norms - 2 * (screened @ self._cell_screen.T)
        ranks = np.argsort(np.argsort(to_cells, axis=1, kind="stable"), axis=1, kind="stable")
        return np.take_along_axis(ranks, self._cell_of(ids), axis=1)

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Learn from the true neighbours (m, k) of sampled rows how to read the screen.

        What the screen leaves out of two neighbours is not orthogonal: its mean cosine is taken into the
        screened distance. `reach` is how far that exceeds the true one, at most, for nearly all neighbours.
        """
        a = np.repeat(self._screened_rows(rows), ids.shape[1], axis=0).astype(np.float64)
        b = self._screened_rows(ids.ravel()).astype(np.float64)
        true = distances.ravel().astype(np.float64)
        inside = ((a[:, :-1] - b[:, :-1]) ** 2).sum(axis=1)
        lengths = a[:, -1] * b[:, -1]
        squares = a[:, -1] ** 2 + b[:, -1] ** 2
        products = (squares - (true - inside)) / 2
        total = lengths.sum()
        self.correlation = np.float32(np.clip(products.sum() / total, 0, 1) if total > 0 else 1)
        screened = inside + squares - 2 * float(self.correlation) * lengths
        excess = screened / np.maximum(true, 1e-30)
        self.reach = np.float32(np.clip(np.quantile(excess, REACHED, method="higher"), 1, 1e30))

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return how many rows the screen takes for nearer to each of `rows` than its neighbours `ids`."""
        turned, _ = self._turned(self._screened_rows(rows), self.correlation)
        wanted = self._screened_rows(ids.ravel()).reshape(*ids.shape, -1)
        limits = np.einsum("ij,ikj->ik", turned, wanted) + np.einsum("ikj,ikj->ik", wanted, wanted)
        order = np.argsort(limits, axis=1)
        ascending = np.take_along_axis(limits, order, axis=1)
        counts = np.zeros((len(rows), ids.shape[1] + 1), np.int64)
        for start in range(0, self.vectors.n_rows, BLOCK_ROWS):
            targets = self._screened(start, min(start + BLOCK_ROWS, self.vectors.n_rows))
            values = turned @ targets.T
            values += np.einsum("ij,ij->i", targets, targets)
            kernels.count_below(values, ascending, counts)
        ranks = np.empty(ids.shape, np.int64)
        np.put_along_axis(ranks, order, np.cumsum(counts[:, :-1], axis=1), axis=1)
        return np.maximum(ranks - 1, 0)  # the row itself is always the nearest

    def _turned(self, screened: np.ndarray, correlation: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Return screened queries ready for a product with targets, and their squared norms."""
        turned, norms = np.empty_like(screened), np.empty(len(screened), np.float32)
        no_center = np.zeros(screened.shape[1] - 1, np.float32)
        kernels.center_queries(screened, np.arange(len(screened)), no_center, correlation, turned, norms)
        return turned, norms

    # --- the search ---------------------------------------------------------------------------------

    def probe(
        self, k: int, n_probes: int, n_candidates: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's k nearest rows in its `n_probes` nearest cells, and their squared distances.

        Rows that are not searched for have no list: ids -1, distances inf.

        The screen keeps `n_candidates` of each row, which then get exact distances. A row whose cells hold
        no k rows beside it takes further cells.
        """
        n = self.vectors.n_rows
        ids = np.full((n, k), -1, np.int32)
        distances = np.full((n, k), np.inf, np.float32)
        lock = threading.Lock()
        done = 0

        def search(start: int, stop: int) -> None:
            nonlocal done
            queries = self._tour[start:stop]
            candidates, screened = self._candidates(queries, n_probes, max(n_candidates, k), k + 1)
            near = np.empty((len(queries), k), np.float32)
            near_ids = np.empty((len(queries), k), np.int32)
            self._rank(queries, candidates, screened, near, near_ids)
            ids[queries] = near_ids
            distances[queries] = near
            with lock:
                done += stop - start
                on_progress(done)

        self.pool.run(search, len(self._tour), QUERIES)
        return ids, distances

    def _candidates(
        self, queries: np.ndarray, n_probes: int, n_kept: int, enough: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `n_kept` rows nearest in the screen to each query, ascending, and their distances there.

        Where there are fewer the row is -1.
        """
        screened = self._screened_rows(queries)
        cells, marks = self._choose_cells(queries, screened, n_probes, enough)
        kept = np.full((len(queries), n_kept), np.inf, np.float32)
        candidates = np.full((len(queries), n_kept), -1, np.int32)
        for cell, mark in zip(cells, marks, strict=True):
            picked = np.flatnonzero(mark)
            if not len(picked):
                continue
            center = self._cell_screen[cell]
            turned = np.empty((len(picked), screened.shape[1]), np.float32)
            norms = np.empty(len(picked), np.float32)
            kernels.center_queries(screened, picked, center, self.correlation, turned, norms)
            for first, rows in self._pieces_of_cell(cell):
                targets, target_norms = np.empty_like(rows), np.empty(len(rows), np.float32)
                kernels.center_targets(rows, center, targets, target_norms)
                products = turned @ targets.T
                kernels.scan_block(products, norms, target_norms, picked, queries, first, kept, candidates)
        return candidates, kept

    def _choose_cells(
        self, queries: np.ndarray, screened: np.ndarray, n_probes: int, enough: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells to probe, the queries' own first, and marks (cells, queries) of who does."""
        own = np.unique(self._cell_of(queries))
        between = self._cell_norms - 2 * (self._cell_screen[own] @ self._cell_screen.T)
        n_near = max(NEAR_CELLS, 2 * n_probes)
        if n_near < self.n_cells:
            near = np.argpartition(between, n_near - 1, axis=1)[:, :n_near]
            if self._sizes[near].sum(axis=1).min() < enough:
                near = np.arange(self.n_cells)
        else:
            near = np.arange(self.n_cells)
        cells = np.unique(near)
        cells = cells[np.lexsort((between.min(axis=0)[cells], ~np.isin(cells, own)))]
        to_cells = self._cell_norms[cells] - 2 * (screened[:, :-1] @ self._cell_screen[cells].T)
        marks = np.zeros((len(cells), len(queries)), np.uint8)
        kernels.mark_probes(to_cells, self._sizes[cells], min(n_probes, len(cells)), enough, marks)
        return cells, marks

    def _rank(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        screened: np.ndarray,
        near: np.ndarray,
        near_ids: np.ndarray,
    ) -> None:
        """Fill `near` and `near_ids` with the exact nearest of the candidates of each query."""
        if self.vectors.resident:
            rows = self.vectors.read(0, self.vectors.n_rows)
            kernels.rank_exactly(rows[queries], rows, candidates, candidates, screened, self.reach, near, near_ids)
            return
        most = self.memory_bytes // (4 * self.pool.n * self.vectors.n_dims * 4)
        parts = [slice(0, len(queries))]
        while parts:
            part = parts.pop()
            # Queries near each other have many candidates in common, and each is read once for all of a part.
            wanted, positions = np.unique(np.maximum(candidates[part], 0), return_inverse=True)
            n = part.stop - part.start
            if n + len(wanted) > most and n > 1:
                middle = part.start + n // 2
                parts += [slice(middle, part.stop), slice(part.start, middle)]
                continue
            kernels.rank_exactly(
                self._gather(queries[part]),
                self._gather(wanted),
                positions.reshape(candidates[part].shape).astype(np.int32),
                candidates[part],
                screened[part],
                self.reach,
                near[part],
                near_ids[part],
            )

    def refine(
        self, ids: np.ndarray, distances: np.ndarray, is_new: np.ndarray, max_candidates: int, n_trials: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lists improved by one round: each row that is searched for tries the neighbours of its neighbours.

        Lists are of all rows, those of rows that are only found made by who searches for them.

        Neighbours count both ways round. `is_new` (n, k) uint8 marks the entries that the last round brought;
        pairs of old ones have been tried. The screen picks `n_trials` rows for exact distances.
        """
        assert self._screen is not None  # noqa: S101 - the caller has asked `can_refine`
        n = len(ids)
        screen, rows = self._screen, self.vectors.read(0, n)
        held_by = np.empty((n, max_candidates), np.int32)
        held_fresh = np.empty((n, max_candidates), np.uint8)
        n_held = np.zeros(n, np.int32)
        kernels.reverse_lists(ids, is_new, n_held, held_by, held_fresh)
        new_ids, new_distances, new_fresh = ids.copy(), distances.copy(), is_new.copy()
        local = threading.local()

        def round_of(start: int, stop: int) -> None:
            if not hasattr(local, "seen"):
                local.seen = np.full(n, -1, np.int32)
            kernels.refine_rows(
                self._tour[start:stop],
                screen,
                self.correlation,
                self.reach,
                rows,
                n_trials,
                (ids, distances, is_new),
                (n_held, held_by, held_fresh),
                (new_ids, new_distances, new_fresh),
                local.seen,
            )

        self.pool.run(round_of, len(self._tour), QUERIES)
        return new_ids, new_distances, new_fresh
