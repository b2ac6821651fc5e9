"""The primitives of the neighbor search on the CPU.

Distances are first computed in a filter: along the leading principal axes of the rows, with the length of the residual.
The nearest rows by these get exact distances. A filter with all dimensions is exact up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from nomad_dask.backends.cell_index import NEAR_CELLS, CellIndex, mean_probed_rows
from nomad_dask.backends.cpu import cell_search_kernels as kernels
from nomad_dask.backends.cpu import filter_calibration, refine_kernels
from nomad_dask.backends.cpu.filtered_rows import FilteredRows
from nomad_dask.backends.cpu.search_cells import SearchCells, cells_of_parts, split_cells
from nomad_dask.backends.data import ListLengths, NeighborLists
from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import Threads

_QUERY_CHUNK = 2048
"""Rows searched in one task."""
_RANKED_ROWS = 50
"""Sampled rows that are compared with all cells at once."""
_PROBE_RANKS = (0, 2, 8)
"""The nearest cells of all queries are searched first, then the next ones: then few of their rows enter the lists."""
_REFINE_ROW_BYTES = 300
"""Memory of a refinement round per row, besides the lists."""


class CpuCellSearch(CellIndex):
    """Primitives of the neighbor search over the rows of one shard, in cell order.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells; those of empty cells are ignored.
    pool : Threads
        Runs the work; results do not depend on the number of its threads.
    seed : int
        For the sample of rows to which the filter is fitted.
    memory_bytes : int
        Memory limit, besides the results.
    n_queries : int, optional
        The first `n_queries` rows (whole cells) are searched for; all rows can be neighbors. None searches for all.
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
        self._offsets = np.append(self._first, cell_offsets[-1])
        self._filtered = FilteredRows(vectors, self._offsets, pool, memory_bytes)
        self._queries = np.zeros(0, np.int32)
        self._cells = SearchCells(self._offsets)
        self._parts: np.ndarray | None = None
        self._probed: np.ndarray | None = None

    # --- the filter ---------------------------------------------------------------------------------

    def build_filter(self, n_axes: int | None) -> None:
        """Fit the filter with `n_axes` principal axes, or with all dimensions for None, and load the rows."""
        self._parts = None
        self.unload()
        self.n_cells = self._cells.n_cells
        self.vectors.load(self.pool.run)
        pca_filter = self._filtered.fit(n_axes, self._rng)
        self.correlation = np.float32(1)
        self.reach = np.float32(np.inf)
        self._set_centers(pca_filter.project(self._centroids)[:, :-1].copy())
        self._cells_in_order = self._order_cells(self._centers)
        self.load()

    def split_cells(self, part_rows: int) -> None:
        """Search cells of about `part_rows` rows from now on, split from those of the shard."""
        self._parts, means = split_cells(self._filtered.project, self._offsets, part_rows, self.pool)
        self._load_parts()
        self.n_cells = self._cells.n_cells
        self._set_centers(means[:, :-1].copy())

    def _set_centers(self, centers: np.ndarray) -> None:
        self._centers = centers
        self._center_norms = np.einsum("ij,ij->i", centers, centers)

    def _load_parts(self) -> None:
        """List the rows of each cell, and the rows to search for."""
        if self._parts is not None:
            self._cells = cells_of_parts(self._parts, self._offsets)
        self._queries = self._query_order()

    @property
    def mean_probed_rows(self) -> float:
        """Mean number of rows in a probed cell; large cells are probed more often."""
        return mean_probed_rows(self._cells.sizes)

    def load(self) -> None:
        """Load rows and filter into memory, each if it fits."""
        self._load_parts()
        self._filtered.load()

    def unload(self) -> None:
        """Free the memory of rows and filter until `load`."""
        self._queries = np.zeros(0, np.int32)
        self._cells = SearchCells(self._offsets)
        self._probed = None
        self._filtered.unload()

    def can_refine(self, k: int) -> bool:
        """Return whether `refine` is possible for lists of k: rows are in memory, with room for a second copy."""
        held = self._filtered.held
        if not self.vectors.resident or held is None:
            return False
        filter_bytes = 0 if self._filtered.filter.axes is None else held.nbytes
        needed = filter_bytes + self.vectors.n_rows * (10 * k + _REFINE_ROW_BYTES)
        return bool(needed <= self.memory_bytes)

    def _query_order(self) -> np.ndarray:
        """Return the rows to search for, cell by cell, with near cells close to each other."""
        firsts, sizes = self._first[self._cells_in_order], self._sizes[self._cells_in_order]
        return np.concatenate([self._cells.slice(a, a + n) for a, n in zip(firsts, sizes, strict=True)])

    # --- sampled rows -------------------------------------------------------------------------------

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the true neighbors (m, k) int32 of sampled rows (m,) and their squared distances (m, k) float32."""
        return filter_calibration.brute_force(self._filtered, rows, k, self.pool)

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for each true neighbor (m, k) how many cells are nearer to the row than the neighbor's."""
        projected = self._filtered.gather_projected(rows)[:, :-1]
        cells = self._cells.cell_of(ids)
        ranks = np.empty(cells.shape, np.int64)

        def count(start: int, stop: int) -> None:
            to_cells = self._center_norms - 2 * (projected[start:stop] @ self._centers.T)
            kernels.count_nearer(to_cells, cells[start:stop], ranks[start:stop])

        self.pool.run(count, len(rows), _RANKED_ROWS)
        return ranks

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Fit how distances of the filter relate to true ones, from the true neighbors (m, k) of sampled rows."""
        self.correlation, self.reach = filter_calibration.fit_correlation(self._filtered, rows, ids, distances)

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for each true neighbor (m, k) how many rows the filter ranks before it."""
        return filter_calibration.filter_ranks(self._filtered, rows, ids, self.correlation)

    # --- the search ---------------------------------------------------------------------------------

    def probe(
        self, lengths: ListLengths, n_probes: int, n_candidates: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each row's nearest rows in its `n_probes` nearest cells, their squared distances, and a tail of ids.

        Rows that are not searched for have no list: ids -1, distances inf.

        The filter passes on `n_candidates` rows per query, which then get exact distances. A row whose cells contain
        fewer than k other rows probes more cells.
        """
        n, k = self.vectors.n_rows, lengths.k
        ids = np.full((n, k), -1, np.int32)
        distances = np.full((n, k), np.inf, np.float32)
        tail = np.full((n, lengths.n_tail), -1, np.int32)
        near = self._near_cells(n_probes)
        self._probed = self._new_probed(n_probes)
        lock = threading.Lock()
        done = 0

        def search(start: int, stop: int) -> None:
            nonlocal done
            queries = self._queries[start:stop]
            candidates, approximate = self._find_candidates(queries, near, n_probes, n_candidates, k + 1)
            nearest = np.empty((len(queries), lengths.n_ranks), np.float32)
            nearest_ids = np.empty((len(queries), lengths.n_ranks), np.int32)
            self._rank_candidates(queries, candidates, approximate, nearest, nearest_ids)
            ids[queries] = nearest_ids[:, :k]
            distances[queries] = nearest[:, :k]
            tail[queries] = lengths.tail_of(nearest_ids)
            with lock:
                done += stop - start
                on_progress(done)

        self.pool.run(search, len(self._queries), _QUERY_CHUNK)
        return ids, distances, tail

    def _near_cells(self, n_probes: int) -> np.ndarray | None:
        """Return the cells (n_query_cells, n_near) near each cell to search for; None where all are to be tried."""
        n_near = max(NEAR_CELLS, 2 * n_probes)
        if n_near >= self.n_cells:
            return None
        n_query_cells = int(np.searchsorted(self._cells.offsets[:-1], self.n_queries))
        return nearest_cells(self._centers, np.arange(n_query_cells), n_near, self.pool.run)

    def _find_candidates(
        self, queries: np.ndarray, near: np.ndarray | None, n_probes: int, n_candidates: int, min_rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `n_candidates` rows nearest to each query in the filter, ascending, and their distances there.

        Missing rows are -1.
        """
        cells, chosen = self._choose_cells(queries, near, n_probes, min_rows)
        if self._probed is not None:
            self._probed[queries] = cells[chosen[:, : self._probed.shape[1]]]
        distances = np.full((len(queries), n_candidates), np.inf, np.float32)
        candidates = np.full((len(queries), n_candidates), -1, np.int32)
        held = self._filtered.held
        if held is not None:
            centers = self._centers[cells] + self._filtered.origin
            members = self._cells.slice(0, len(held))
            for first, last in zip(_PROBE_RANKS, (*_PROBE_RANKS[1:], chosen.shape[1]), strict=True):
                picked, offsets = kernels.group_by_cell(chosen[:, first:last], len(cells))
                kernels.probe_cells(
                    queries, held, picked, offsets, cells, centers, members, self._cells.offsets,
                    self.correlation, (distances, candidates),
                )  # fmt: skip
            return candidates, distances
        picked, offsets = kernels.group_by_cell(chosen, len(cells))
        rows_of_queries = self._filtered.gather_projected(queries)
        whole = np.searchsorted(self._offsets, self._cells.offsets[cells], side="right") - 1
        for i in np.argsort(whole, kind="stable"):  # the parts of a cell together, as they are read together
            for members, rows, places in self._filtered.blocks(int(whole[i]), self._cells.rows_of(int(cells[i]))):
                probing, center = picked[offsets[i] : offsets[i + 1]], self._centers[cells[i]]
                kernels.probe_block(
                    queries, rows_of_queries, probing, center, rows, places, members, self.correlation,
                    (distances, candidates),
                )  # fmt: skip
        return candidates, distances

    def _choose_cells(
        self, queries: np.ndarray, near: np.ndarray | None, n_probes: int, min_rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose the cells to probe for each query.

        Returns
        -------
        cells : ndarray of int64 (n_cells,)
            All of them, the queries' own cells first.
        chosen : ndarray of int32 (n_queries, width)
            Which of them each query probes, nearest first; -1 fills up.
        """
        projected = self._filtered.gather_projected(queries)
        cell_of_query = self._cells.cell_of(queries)
        own = np.unique(cell_of_query)
        cells = np.arange(self.n_cells)
        if near is not None and self._cells.sizes[near[own]].sum(axis=1).min() >= min_rows:
            cells = np.union1d(near[own], own)
        between = self._center_norms[cells] - 2 * (self._centers[own] @ self._centers[cells].T)
        by_distance = np.lexsort((between.min(axis=0), ~np.isin(cells, own)))
        cells, between = cells[by_distance], between[:, by_distance]
        to_cells = self._center_norms[cells] - 2 * (projected[:, :-1] @ self._centers[cells].T)
        orders = np.argsort(between, axis=1, kind="stable")
        order_of_query = np.searchsorted(own, cell_of_query)
        sizes = self._cells.sizes[cells]
        width = n_probes = min(n_probes, len(cells))
        while True:
            chosen = np.empty((len(queries), width), np.int32)
            if kernels.choose_probes(to_cells, orders, order_of_query, sizes, n_probes, min_rows, chosen):
                return cells, chosen
            width = min(2 * width, len(cells))

    def _rank_candidates(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        approximate: np.ndarray,
        distances: np.ndarray,
        ids: np.ndarray,
    ) -> None:
        """Write the exact nearest of the candidates of each query, and their distances."""
        gather = self._filtered.gather
        if self.vectors.resident:
            rows = self.vectors.read(0, self.vectors.n_rows)
            kernels.rank_exactly(rows[queries], rows, candidates, candidates, approximate, self.reach, distances, ids)
            return
        max_rows = self.memory_bytes // (4 * self.pool.n * self.vectors.n_dims * 4)
        parts = [slice(0, len(queries))]
        while parts:
            part = parts.pop()
            # Near queries have many candidates in common, and each is read once for all queries of a part.
            needed, positions = np.unique(np.maximum(candidates[part], 0), return_inverse=True)
            n = part.stop - part.start
            if n + len(needed) > max_rows and n > 1:
                middle = part.start + n // 2
                parts += [slice(middle, part.stop), slice(part.start, middle)]
                continue
            kernels.rank_exactly(
                gather(queries[part]),
                gather(needed),
                positions.reshape(candidates[part].shape).astype(np.int32),
                candidates[part],
                approximate[part],
                self.reach,
                distances[part],
                ids[part],
            )

    def _new_probed(self, n_probes: int) -> np.ndarray | None:
        """Return an array for the cells probed by each row, if a round may need it."""
        if self._filtered.held is None:
            return None
        dtype = np.uint16 if self.n_cells <= 1 << 16 else np.uint32
        return np.zeros((self.vectors.n_rows, min(n_probes, self.n_cells)), dtype)

    def _find_probed(self, n_probes: int, min_rows: int) -> np.ndarray:
        """Return the cells (n_rows, n_probes) that `probe` has searched for each row."""
        if self._probed is None:
            probed = self._new_probed(n_probes)
            assert probed is not None  # noqa: S101 - the caller has asked `can_refine`
            near = self._near_cells(n_probes)

            def choose(start: int, stop: int) -> None:
                queries = self._queries[start:stop]
                cells, chosen = self._choose_cells(queries, near, n_probes, min_rows)
                probed[queries] = cells[chosen[:, : probed.shape[1]]]

            self.pool.run(choose, len(self._queries), _QUERY_CHUNK)
            self._probed = probed
        return self._probed

    def refine(self, lists: NeighborLists, n_probes: int, max_candidates: int, n_trials: int) -> NeighborLists:
        """Return lists improved by one NN-descent round: each query tries the neighbors of its neighbors.

        Lists are of all rows; the lists of rows that are not searched for come from the search of another shard.

        Edges count in both directions. Pairs of entries that are not new have been tried, and so have rows in the
        `n_probes` cells that `probe` has searched. The filter passes on `n_trials` rows per query for exact distances.
        """
        held = self._filtered.held
        assert held is not None  # noqa: S101 - the caller has asked `can_refine`
        n, k = lists.ids.shape
        rows = self.vectors.read(0, n)
        links = refine_kernels.Links(
            np.empty((n, k + max_candidates), np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
        )
        refine_kernels.link_rows(lists.ids, lists.is_new, max_candidates, links)
        refined = NeighborLists(*(array.copy() for array in lists))
        params = refine_kernels.RefineParams(self._centers.shape[1], self.correlation, self.reach, n_trials)
        tried = refine_kernels.TriedCells(self._cells.cell_of_all_rows(), self._find_probed(n_probes, k + 1))
        local = threading.local()

        def refine_chunk(start: int, stop: int) -> None:
            if not hasattr(local, "met"):
                local.met = refine_kernels.Met(np.full(n, -1, np.int32), np.full(self.n_cells, -1, np.int32))
            queries = self._queries[start:stop]
            refine_kernels.refine_rows(queries, held, rows, lists, links, tried, refined, params, local.met)

        self.pool.run(refine_chunk, len(self._queries), _QUERY_CHUNK)
        return refined
