"""The nearest neighbours of a shard's rows among its own rows, as well as asked for and no better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.base import Searcher

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
class Neighbors:
    """Nearest neighbours within a shard.

    Attributes
    ----------
    ids : ndarray (n, k) int32
        Row positions within the shard, nearest first; -1 where fewer were found.
    distances : ndarray (n, k) float32
        Squared distances, inf where the id is -1.
    recall : float
        Share of the true neighbours of a sample of rows that were found; 1.0 for an exhaustive search.
    n_probes : int
        Cells searched for each row.
    rounds : int
        Rounds that tried the neighbours of neighbours.
    """

    ids: np.ndarray
    distances: np.ndarray
    recall: float
    n_probes: int
    rounds: int


def find_neighbors(
    search: Searcher,
    n_neighbors: int,
    *,
    n_probes: int | None,
    target_recall: float,
    seed: int,
    advance: Callable[[int], None],
) -> Neighbors:
    """Find the `n_neighbors` nearest rows of every row that is searched for, itself excluded.

    Parameters
    ----------
    search : CellSearch
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
    advance : callable
        Told the number of rows done so far.

    Returns
    -------
    Neighbors
        Lists in the order of the rows searched for.
    """
    n, n_queries = search.vectors.n_rows, search.n_queries
    k = min(n_neighbors, n - 1)
    if k <= 0:
        return Neighbors(np.empty((n, 0), np.int32), np.empty((n, 0), np.float32), 1.0, 0, 0)
    if n_probes is None and n <= SMALL_SHARD:
        n_probes = search.n_cells
    sample = np.sort(np.random.default_rng(seed).choice(n_queries, min(n_queries, SAMPLE_ROWS), replace=False)).astype(
        np.int32
    )
    if n_probes is not None:
        n_probes = min(n_probes, search.n_cells)
        search.make_screen(None)
        ids, distances = search.probe(k, n_probes, k + 8, advance)
        recall = 1.0
        if n_probes < search.n_cells:
            recall = measure_recall(distances[sample], search.exact(sample, k)[1])
        return Neighbors(ids[:n_queries], distances[:n_queries], recall, n_probes, 0)

    search.make_screen(SCREEN_AXES if search.vectors.n_dims > 1.5 * SCREEN_AXES else None)
    true_ids, true_distances = search.exact(sample, k)
    search.fit_screen(sample, true_ids, true_distances)
    few = slice(None, None, 4)
    can_refine = search.can_refine(k)
    n_probes, n_candidates = choose_effort(
        search.cell_ranks(sample, true_ids),
        search.screen_ranks(sample[few], true_ids[few]),
        target_recall,
        search.mean_probed_rows,
        can_refine,
    )
    n_candidates = min(max(n_candidates, k + 5), 3 * k + 60)  # beyond that more axes would be cheaper
    ids, distances = search.probe(k, n_probes, n_candidates, advance)
    recall = measure_recall(distances[sample], true_distances)
    fresh = np.ones(ids.shape, np.uint8)
    rounds = 0
    fan = FAN
    while can_refine and recall < target_recall and rounds < MAX_ROUNDS:
        ids, distances, fresh = search.refine(ids, distances, fresh, fan, k + 5)
        rounds += 1
        before, recall = recall, measure_recall(distances[sample], true_distances)
        if recall - before < MIN_GAIN:
            if fan > FAN:
                break
            fan = WIDE_FAN
            fresh[:] = 1  # pairs that the narrow rounds left out have not been tried
    return Neighbors(ids[:n_queries], distances[:n_queries], recall, n_probes, rounds)


def measure_recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of `found` distances (m, k) that are within the true k-th; ties count as found."""
    return float((found <= true[:, -1:] * np.float32(1 + 1e-6)).mean())


def choose_effort(
    cell_ranks: np.ndarray,
    screen_ranks: np.ndarray,
    target_recall: float,
    probed_rows: float,
    can_refine: bool,
) -> tuple[int, int]:
    """Choose how many cells to probe and how many rows the screen keeps, for the least time.

    Parameters
    ----------
    cell_ranks, screen_ranks : ndarray
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
        return start, _covering(screen_ranks, target_recall)
    return enough, _covering(screen_ranks, 1 - 0.25 * may_lose)


def _covering(ranks: np.ndarray, share: float) -> int:
    """Return the least number below which `share` of the ranks are."""
    return int(np.quantile(ranks, max(share, 0.0), method="inverted_cdf")) + 1
