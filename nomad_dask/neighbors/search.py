"""The nearest neighbours of a shard's rows, as well as asked for and no better: a probe, then rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nomad_dask.backends.base import CellSearch

SAMPLE_ROWS = 200
"""Rows whose true neighbours are found, to measure recall."""
SMALL_SHARD = 2048
"""Up to this many rows every row is compared with every other."""
SCREEN_AXES = 127
"""Axes of the screen: with the column of the rest a multiple of eight."""
ROUNDS_COST = 5000
"""Screened pairs a row that take as long as two rounds."""
MAX_ROUNDS = 8
FAN = 10
"""Neighbours of a neighbour that a round tries, each way round."""
WIDE_FAN = 20
"""The same, once rounds have stopped to gain."""
MIN_GAIN = 0.002
"""Recall that a round must bring for the next to be like it."""


@dataclass(frozen=True)
class NeighborLists:
    """The nearest rows found so far for some rows.

    Attributes
    ----------
    ids : ndarray (rows, k) int32
        Row positions within what is searched, nearest first; -1 where fewer were found.
    distances : ndarray (rows, k) float32
        Squared distances, inf where the id is -1.
    fresh : ndarray (rows, k) uint8
        1 for the entries that the last step brought.
    """

    ids: np.ndarray
    distances: np.ndarray
    fresh: np.ndarray


@dataclass(frozen=True)
class SearchState:
    """How far a search has come.

    Attributes
    ----------
    recall : float
        Share of the true neighbours of a sample of rows that were found; 1.0 for an exhaustive search.
    n_probes : int
        Cells searched for each row.
    rounds : int
        Rounds that tried the neighbours of neighbours.
    fan : int
        Neighbours of a neighbour that the next round tries, each way round.
    more : bool
        Whether another round is worth its time.
    """

    recall: float
    n_probes: int
    rounds: int = 0
    fan: int = FAN
    more: bool = False


@dataclass(frozen=True)
class Neighbors:
    """What a search found, as in `NeighborLists`, and how, as in `SearchState`."""

    ids: np.ndarray
    distances: np.ndarray
    recall: float
    n_probes: int
    rounds: int


class NeighborSearch:
    """The search for the neighbours of a shard's rows, itself excluded.

    Parameters
    ----------
    primitives : Searcher
        The backend's primitives over the rows.
    n_neighbors : int
        Neighbours wanted; n - 1 when there are fewer rows.
    n_probes : int or None
        Cells searched for each row, exactly, in all dimensions and without rounds. None chooses probes and
        rounds by `target_recall`.
    target_recall : float
        Share of true neighbours to find when `n_probes` is None.
    seed : int
        Decides the sampled rows.
    """

    def __init__(
        self, primitives: CellSearch, n_neighbors: int, *, n_probes: int | None, target_recall: float, seed: int
    ) -> None:
        n, n_queries = primitives.vectors.n_rows, primitives.n_queries
        self.primitives, self.target_recall = primitives, target_recall
        self.k = k = min(n_neighbors, n - 1)
        if n_probes is None and n <= SMALL_SHARD:
            n_probes = primitives.n_cells
        rng = np.random.default_rng(seed)
        self._sample = np.sort(rng.choice(n_queries, min(n_queries, SAMPLE_ROWS), replace=False)).astype(np.int32)
        self._true_distances: np.ndarray | None = None
        self._can_refine = False
        if k <= 0:
            self._n_probes, self._n_candidates = 0, 0
        elif n_probes is not None:
            self._n_probes, self._n_candidates = min(n_probes, primitives.n_cells), k + 8
            primitives.build_filter(None)
            if self._n_probes < primitives.n_cells:
                self._true_distances = primitives.brute_force(self._sample, k)[1]
        else:
            self._choose()

    def _choose(self) -> None:
        """Choose the screen, the probes and whether rounds follow, by what they find of a sample."""
        primitives, k, sample = self.primitives, self.k, self._sample
        primitives.build_filter(SCREEN_AXES if primitives.vectors.n_dims > 1.5 * SCREEN_AXES else None)
        true_ids, self._true_distances = primitives.brute_force(sample, k)
        primitives.calibrate_filter(sample, true_ids, self._true_distances)
        few = slice(None, None, 4)
        self._can_refine = primitives.can_refine(k)
        self._n_probes, n_candidates = choose_probes(
            primitives.cell_ranks(sample, true_ids),
            primitives.filter_ranks(sample[few], true_ids[few]),
            self.target_recall,
            primitives.mean_probed_rows,
            self._can_refine,
        )
        # Beyond that more axes would be cheaper.
        self._n_candidates = min(max(n_candidates, k + 5), 3 * k + 60)

    def load(self) -> None:
        """Take the rows into memory again, after `unload`."""
        if self.k > 0:
            self.primitives.load()

    def unload(self) -> None:
        """Give the memory of the rows back until `load`; what was chosen stays."""
        self.primitives.unload()

    def probe(self, advance: Callable[[int], None]) -> tuple[NeighborLists, SearchState]:
        """Search the nearest cells of each row; `advance` is told the number of rows done so far."""
        n_queries = self.primitives.n_queries
        if self.k <= 0:
            none = NeighborLists(*(np.empty((n_queries, 0), kind) for kind in (np.int32, np.float32, np.uint8)))
            return none, SearchState(1.0, 0)
        ids, distances = self.primitives.probe(self.k, self._n_probes, self._n_candidates, advance)
        ids, distances = ids[:n_queries], distances[:n_queries]
        recall = self._recall(distances)
        more = self._can_refine and recall < self.target_recall
        return NeighborLists(ids, distances, np.ones(ids.shape, np.uint8)), SearchState(
            recall, self._n_probes, more=more
        )

    def refine(self, lists: NeighborLists, effort: SearchState) -> tuple[NeighborLists, SearchState]:
        """Let each row try the neighbours of its neighbours, once.

        Parameters
        ----------
        lists : Lists
            Of all rows, those that are only found included, or of the rows that are searched for.
        effort : Effort
            What the last step returned.
        """
        n_queries, fan = self.primitives.n_queries, effort.fan
        found = NeighborLists(*(part[:n_queries] for part in self.primitives.refine(
            lists.ids, lists.distances, lists.fresh, fan, self.k + 5
        )))  # fmt: skip
        recall, rounds = self._recall(found.distances), effort.rounds + 1
        more = recall < self.target_recall and rounds < MAX_ROUNDS
        if recall - effort.recall < MIN_GAIN:
            more = more and fan == FAN
            fan = WIDE_FAN
            found.fresh[:] = 1  # pairs that the narrow rounds left out have not been tried
        return found, replace(effort, recall=recall, rounds=rounds, fan=fan, more=more)

    def complete(self, advance: Callable[[int], None]) -> tuple[NeighborLists, SearchState]:
        """Probe, then refine as long as it is worth it: for rows without others around them."""
        lists, effort = self.probe(advance)
        while effort.more:
            lists, effort = self.refine(lists, effort)
        return lists, effort

    def _recall(self, distances: np.ndarray) -> float:
        if self._true_distances is None:
            return 1.0
        return measure_recall(distances[self._sample], self._true_distances)


def find_neighbors(
    primitives: CellSearch,
    n_neighbors: int,
    *,
    n_probes: int | None,
    target_recall: float,
    seed: int,
    advance: Callable[[int], None],
) -> Neighbors:
    """Search a shard without others around it, to the end; see `NeighborSearch` for the parameters."""
    search = NeighborSearch(primitives, n_neighbors, n_probes=n_probes, target_recall=target_recall, seed=seed)
    lists, effort = search.complete(advance)
    return Neighbors(lists.ids, lists.distances, effort.recall, effort.n_probes, effort.rounds)


def measure_recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of `found` distances (m, k) that are within the true k-th; ties count as found."""
    return float((found <= true[:, -1:] * np.float32(1 + 1e-6)).mean())


def choose_probes(
    cell_ranks: np.ndarray,
    filter_ranks: np.ndarray,
    target_recall: float,
    probed_rows: float,
    can_refine: bool,
) -> tuple[int, int]:
    """Choose how many cells to probe and how many rows the screen keeps, for the least time.

    Parameters
    ----------
    cell_ranks, filter_ranks : ndarray
        For the true neighbours of sampled rows: the nearer cells than theirs, and the rows that the screen
        takes for nearer.
    target_recall : float
        Share of true neighbours to find.
    probed_rows : float
        Rows met by one probe.
    can_refine : bool
        Whether rounds may follow.

    Returns
    -------
    n_probes, n_candidates : int
        Either enough by themselves, or, where that takes longer than rounds, a start for rounds.
    """
    may_lose = 1 - target_recall
    enough = _covering(cell_ranks, 1 - (0.75 if can_refine else 0.5) * may_lose)
    start = _covering(cell_ranks, 1 - 2.3 * may_lose)
    if can_refine and (enough - start) * probed_rows > ROUNDS_COST:
        return start, _covering(filter_ranks, target_recall)
    return enough, _covering(filter_ranks, 1 - 0.25 * may_lose)


def _covering(ranks: np.ndarray, share: float) -> int:
    """Return the least number below which `share` of the ranks are."""
    return int(np.quantile(ranks, max(share, 0.0), method="inverted_cdf")) + 1
