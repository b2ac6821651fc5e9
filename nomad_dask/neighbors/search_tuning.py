"""Recall, and the cheapest search that reaches a target recall."""

from __future__ import annotations

import numpy as np

ROUNDS_COST = 3000
"""Filtered pairs per row that take as long as two rounds."""
START_LOSS, START_LOSS_ALL_AXES = 2.5, 3.0
"""Multiples of the loss at the target that probes leave to rounds: more where they compare all dimensions."""


def measure_recall(distances: np.ndarray, true_distances: np.ndarray) -> float:
    """Return the share of distances (n_rows, k) up to the true k-th; ties count as found."""
    return float((distances <= true_distances[:, -1:] * np.float32(1 + 1e-6)).mean())


def choose_probes(
    cell_ranks: np.ndarray,
    filter_ranks: np.ndarray,
    target_recall: float,
    mean_probed_rows: float,
    can_refine: bool,
    max_start_loss: float = START_LOSS,
) -> tuple[int, int]:
    """Choose how many cells to probe and how many rows the filter passes on, for the shortest time.

    Parameters
    ----------
    cell_ranks, filter_ranks : ndarray
        For the true neighbors of sampled rows: how many cells are nearer than the neighbor's, and how many rows the
        filter ranks before it.
    target_recall : float
        Share of true neighbors to find.
    mean_probed_rows : float
        Mean number of rows in a probed cell.
    can_refine : bool
        Whether NN-descent rounds may follow.
    max_start_loss : float
        Share of true neighbors that a start for rounds may leave to them, as a multiple of what the target leaves.

    Returns
    -------
    n_probes, n_candidates : int
        Enough to reach the target, or, if that takes longer than rounds, a start for rounds.
    """
    max_loss = 1 - target_recall
    enough = _count_covering(cell_ranks, 1 - (0.65 if can_refine else 0.5) * max_loss)
    start = _count_covering(cell_ranks, 1 - max_start_loss * max_loss)
    if can_refine and (enough - start) * mean_probed_rows > ROUNDS_COST:
        return start, _count_covering(filter_ranks, 1 - 0.4 * max_loss)
    return enough, _count_covering(filter_ranks, 1 - 0.2 * max_loss)


def _count_covering(ranks: np.ndarray, share: float) -> int:
    """Return the smallest number that is greater than `share` of the ranks."""
    return int(np.quantile(ranks, max(share, 0.0), method="inverted_cdf")) + 1
