"""The nearest neighbours of a shard's rows among its own rows, as well as asked for and no better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.cpu.knn import CellSearch
from nomad_dask.backends.cpu.threads import Threads
from nomad_dask.partition.store import ShardVectors

SAMPLE_ROWS = 200
"""Rows whose true neighbours are found, to measure recall."""
SMALL_SHARD = 4096
"""Up to this many rows every row is compared with every other."""
SCREEN_AXES = 95
"""Axes of the screen: with the column of the rest a multiple of eight."""
MAX_ROUNDS = 8
FAN = 10
"""Neighbours of a neighbour that a round tries, each way round."""


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
    vectors: ShardVectors,
    cell_offsets: np.ndarray,
    centroids: np.ndarray,
    n_neighbors: int,
    *,
    n_probes: int | None,
    target_recall: float,
    pool: Threads,
    seed: int,
    memory_bytes: int,
    advance: Callable[[int], None],
    primitives: type[CellSearch] = CellSearch,
) -> Neighbors:
    """Find the `n_neighbors` nearest rows of every row, itself excluded.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d) sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells.
    n_neighbors : int
        Neighbours wanted; n - 1 when there are fewer rows.
    n_probes : int or None
        Cells searched for each row, exactly, in all dimensions and without rounds. None chooses probes and
        rounds by `target_recall`.
    target_recall : float
        Share of true neighbours to find when `n_probes` is None.
    pool : Threads
        Runs the work. The result does not depend on the number of threads.
    seed : int
        Decides the sampled rows.
    memory_bytes : int
        Memory to stay within, the result apart.
    advance : callable
        Told the number of rows done so far.
    primitives : type
        The backend's searcher.

    Returns
    -------
    Neighbors
        Lists in the order of the shard's rows.
    """
    n = vectors.n_rows
    k = min(n_neighbors, n - 1)
    if k <= 0:
        return Neighbors(np.empty((n, 0), np.int32), np.empty((n, 0), np.float32), 1.0, 0, 0)
    search = primitives(vectors, cell_offsets, centroids, pool, seed, memory_bytes)
    if n_probes is None and n <= SMALL_SHARD:
        n_probes = search.n_cells
    sample = np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE_ROWS), replace=False)).astype(np.int32)
    if n_probes is not None:
        n_probes = min(n_probes, search.n_cells)
        search.make_screen(None)
        ids, distances = search.probe(k, n_probes, k + 8, advance)
        recall = 1.0
        if n_probes < search.n_cells:
            recall = measure_recall(distances[sample], search.exact(sample, k)[1])
        return Neighbors(ids, distances, recall, n_probes, 0)

    search.make_screen(SCREEN_AXES if vectors.n_dims > 1.5 * SCREEN_AXES else None)
    true_ids, true_distances = search.exact(sample, k)
    search.fit_correlation(sample, true_ids, true_distances)
    few = slice(None, None, 4)
    n_candidates = choose_candidates(search.screen_ranks(sample[few], true_ids[few]), k, target_recall)
    n_probes = choose_probes(
        search.cell_ranks(sample, true_ids), target_recall, search.mean_probed_rows, search.can_refine
    )
    ids, distances = search.probe(k, n_probes, n_candidates, advance)
    recall = measure_recall(distances[sample], true_distances)
    fresh = np.ones(ids.shape, np.uint8)
    rounds = 0
    while search.can_refine and recall < target_recall and rounds < MAX_ROUNDS:
        ids, distances, fresh = search.refine(ids, distances, fresh, min(FAN, k), n_candidates)
        rounds += 1
        before, recall = recall, measure_recall(distances[sample], true_distances)
        if recall - before < 0.001:
            break
    return Neighbors(ids, distances, recall, n_probes, rounds)


def measure_recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of `found` distances (m, k) that are within the true k-th; ties count as found."""
    return float((found <= true[:, -1:] * np.float32(1 + 1e-6)).mean())


def choose_candidates(screen_ranks: np.ndarray, k: int, target_recall: float) -> int:
    """Return how many rows the screen must keep to lose at most a quarter of what recall may lose."""
    wanted = 1 - (1 - target_recall) / 4
    return int(np.clip(np.quantile(screen_ranks, wanted, method="higher") + 1, k + 5, 6 * k))


def choose_probes(cell_ranks: np.ndarray, target_recall: float, cell_rows: float, can_refine: bool) -> int:
    """Return the number of probes: enough by themselves, or fewer when rounds are the cheaper way."""
    recalls = np.bincount(cell_ranks.ravel()).cumsum() / cell_ranks.size
    enough = int(np.searchsorted(recalls, min(1.0, target_recall + (1 - target_recall) / 4))) + 1
    if not can_refine:
        return enough
    start = int(np.searchsorted(recalls, 0.8)) + 1
    rounds_cost = 5000  # two rounds, in screened pairs of the same time
    return start if (enough - start) * cell_rows > rounds_cost else enough
