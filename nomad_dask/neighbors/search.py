"""The neighbor search of a shard: a probe of the nearest cells, then NN-descent rounds up to a target recall."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nomad_dask.backends.base import CellSearch
from nomad_dask.backends.data import TAIL_STRIDE, ListLengths, NeighborLists
from nomad_dask.neighbors.search_state import MAX_CANDIDATES, SearchState
from nomad_dask.neighbors.search_tuning import START_LOSS, START_LOSS_ALL_AXES, choose_probes, measure_recall

SAMPLE_ROWS = 400
"""Rows with known true neighbors, to measure recall."""
SMALL_SHARD = 2048
"""Up to this many rows the search is exhaustive."""
FILTER_AXES = 127
"""Axes of the filter: with the column of the residual norm a multiple of eight."""
SPLIT_ROWS = 60
"""Mean rows of the cells to probe: more would be compared in vain in larger ones."""
MAX_ROUNDS = 8
WIDE_MAX_CANDIDATES = 30
"""`MAX_CANDIDATES` after a round with little gain."""
WIDE_SHORTFALL = 0.005
"""Recall below the target that is worth a round with more candidates, which costs as much as several others."""
MIN_GAIN = 0.002
"""Recall that a round must add for the next one to have as few candidates."""


@dataclass(frozen=True)
class Neighbors:
    """The result of a search: see `NeighborLists`, `NeighborSearch.probe` and `SearchState`."""

    ids: np.ndarray
    distances: np.ndarray
    tail: np.ndarray
    recall: float
    n_probes: int
    rounds: int


class NeighborSearch:
    """The search for the neighbors of a shard's rows; a row is not its own neighbor.

    Parameters
    ----------
    primitives : CellSearch
        The backend's primitives over the rows.
    n_neighbors : int
        Number of neighbors; n_rows - 1 when there are fewer rows.
    n_tail : int
        Number of neighbors in the tail behind them, as far as there are so many rows.
    n_probes : int or None
        Cells searched for each row, without a filter and without rounds. With None, probes and rounds follow from
        `target_recall`.
    target_recall : float
        Share of true neighbors to find when `n_probes` is None.
    seed : int
        Seed of the sample on which recall is measured.

    Attributes
    ----------
    k : int
        Length of the lists.
    """

    def __init__(
        self,
        primitives: CellSearch,
        n_neighbors: int,
        *,
        n_tail: int,
        n_probes: int | None,
        target_recall: float,
        seed: int,
    ) -> None:
        n_rows, n_queries = primitives.vectors.n_rows, primitives.n_queries
        self.primitives, self.target_recall = primitives, target_recall
        self.k = k = min(n_neighbors, n_rows - 1)
        self._lengths = ListLengths(k, min(n_tail, (n_rows - 1 - k) // TAIL_STRIDE))
        if n_probes is None and n_rows <= SMALL_SHARD:
            n_probes = primitives.n_cells
        rng = np.random.default_rng(seed)
        self._sample = np.sort(rng.choice(n_queries, min(n_queries, SAMPLE_ROWS), replace=False)).astype(np.int32)
        self._true_distances: np.ndarray | None = None
        self._can_refine = False
        if k <= 0:
            self._n_probes, self._n_candidates = 0, 0
        elif n_probes is not None:
            self._n_probes, self._n_candidates = min(n_probes, primitives.n_cells), self._lengths.n_ranks + 8
            primitives.build_filter(None)
            if self._n_probes < primitives.n_cells:
                self._true_distances = primitives.brute_force(self._sample, k)[1]
        else:
            self._tune()
            return
        self._n_whole_probes = self._n_probes

    def _tune(self) -> None:
        """Choose the filter, the probes and whether rounds follow, by what they find for a sample."""
        primitives, k, sample = self.primitives, self.k, self._sample
        has_all_axes = primitives.vectors.n_dims <= 1.5 * FILTER_AXES
        primitives.build_filter(None if has_all_axes else FILTER_AXES)
        whole_rows = primitives.mean_probed_rows
        primitives.split_cells(SPLIT_ROWS)
        true_ids, self._true_distances = primitives.brute_force(sample, k)
        primitives.calibrate_filter(sample, true_ids, self._true_distances)
        filter_ranks = np.arange(k)  # with all axes the filter ranks no other row before a true neighbor
        if not has_all_axes:
            filter_ranks = primitives.filter_ranks(sample[::4], true_ids[::4])
        self._choose(true_ids, filter_ranks, START_LOSS)
        if self._n_candidates > 3 * k + 60:  # to rank so many exactly costs more than to search in all dimensions
            primitives.build_filter(None)
            primitives.split_cells(SPLIT_ROWS)
            self._choose(true_ids, np.zeros(1), START_LOSS_ALL_AXES)
        self._n_whole_probes = math.ceil(self._n_probes * primitives.mean_probed_rows / whole_rows)

    def _choose(self, true_ids: np.ndarray, filter_ranks: np.ndarray, max_start_loss: float) -> None:
        """Choose the probes, and the candidates that the filter passes on, by the ranks of true neighbors."""
        primitives = self.primitives
        self._can_refine = primitives.can_refine(self.k)
        self._n_probes, n_candidates = choose_probes(
            primitives.cell_ranks(self._sample, true_ids),
            filter_ranks,
            self.target_recall,
            primitives.mean_probed_rows,
            self._can_refine,
            max_start_loss,
        )
        self._n_candidates = max(n_candidates, self._lengths.n_ranks + 5)

    def load(self) -> None:
        """Load the rows into memory again after `unload`."""
        if self.k > 0:
            self.primitives.load()

    def unload(self) -> None:
        """Free the memory of the rows until `load`; the tuned settings stay."""
        self.primitives.unload()

    def probe(self, on_progress: Callable[[int], None]) -> tuple[NeighborLists, np.ndarray, SearchState]:
        """Search the nearest cells of each row.

        Parameters
        ----------
        on_progress : callable
            Receives the number of rows done so far.

        Returns
        -------
        lists : NeighborLists
        tail : ndarray of int32 (n_rows, n_tail)
            One of every `TAIL_STRIDE` of the next neighbors, which may be in the lists after further rounds.
        state : SearchState
        """
        n_queries = self.primitives.n_queries
        if self.k <= 0:
            empty = NeighborLists(*(np.empty((n_queries, 0), dtype) for dtype in (np.int32, np.float32, np.uint8)))
            return empty, np.empty((n_queries, 0), np.int32), SearchState(1.0, 0)
        arrays = self.primitives.probe(self._lengths, self._n_probes, self._n_candidates, on_progress)
        ids, distances, tail = (array[:n_queries] for array in arrays)
        recall = self._recall(distances)
        needs_round = self._can_refine and recall < self.target_recall
        lists = NeighborLists(ids, distances, np.ones(ids.shape, np.uint8))
        return lists, tail, SearchState(recall, self._n_whole_probes, needs_round=needs_round)

    def refine(self, lists: NeighborLists, state: SearchState) -> tuple[NeighborLists, SearchState]:
        """Do one NN-descent round: each row tries the neighbors of its neighbors.

        Parameters
        ----------
        lists : NeighborLists
            Of all rows of the shard and, with a halo, of the rows of the halo.
        state : SearchState
            Returned by the last step.
        """
        n_queries, max_candidates = self.primitives.n_queries, state.max_candidates
        of_all_rows = self.primitives.refine(lists, self._n_probes, max_candidates, self.k // 2 + 4)
        refined = NeighborLists(*(array[:n_queries] for array in of_all_rows))
        recall, rounds = self._recall(refined.distances), state.rounds + 1
        needs_round = recall < self.target_recall and rounds < MAX_ROUNDS
        if recall - state.recall < MIN_GAIN:
            falls_short = recall < self.target_recall - WIDE_SHORTFALL
            needs_round = needs_round and falls_short and max_candidates == MAX_CANDIDATES
            max_candidates = WIDE_MAX_CANDIDATES
            refined.is_new[:] = 1  # pairs beyond the smaller number of candidates have not been tried
        state = replace(state, recall=recall, rounds=rounds, max_candidates=max_candidates, needs_round=needs_round)
        return refined, state

    def run(self, on_progress: Callable[[int], None]) -> tuple[NeighborLists, np.ndarray, SearchState]:
        """Probe, then refine while it is worthwhile: the whole search of a shard without a halo; see `probe`."""
        lists, tail, state = self.probe(on_progress)
        while state.needs_round:
            lists, state = self.refine(lists, state)
        return lists, tail, state

    def _recall(self, distances: np.ndarray) -> float:
        if self._true_distances is None:
            return 1.0
        return measure_recall(distances[self._sample], self._true_distances)


def find_neighbors(
    primitives: CellSearch,
    n_neighbors: int,
    *,
    n_tail: int = 0,
    n_probes: int | None,
    target_recall: float,
    seed: int,
    on_progress: Callable[[int], None],
) -> Neighbors:
    """Run the whole search of a shard without a halo; see `NeighborSearch` for the parameters."""
    search = NeighborSearch(
        primitives, n_neighbors, n_tail=n_tail, n_probes=n_probes, target_recall=target_recall, seed=seed
    )
    lists, tail, state = search.run(on_progress)
    return Neighbors(lists.ids, lists.distances, tail, state.recall, state.n_probes, state.rounds)
