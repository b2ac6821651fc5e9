"""Weights of neighbors by their rank, and lists with their tails."""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.backends.data import TAIL_STRIDE
from nomad_dask.backends.weighted_lists import NO_ROW, WeightedLists


def weigh_by_rank(ids: np.ndarray, kind: str) -> WeightedLists:
    """Return the lists (n_rows, k) uint32 of all rows, weighted by rank; see `rank_weights`."""
    weights = rank_weights(ids.shape[1], kind)
    return WeightedLists(len(ids), lambda start, stop: ids[start:stop], weights, total_weights(ids, weights))


def rank_weights(k: int, kind: str, n_tail: int = 0) -> np.ndarray:
    """Return the weight (k + n_tail,) float32 of a neighbor by its rank, nearest first; the weights sum to 1.

    'log' 1/log2(rank+1), 'inverse' 1/rank, 'shifted-inverse' 1/(rank+2), 'softmax-inverse' the softmax of 1/rank
    (the paper), 'uniform'. A neighbor in the tail has the weight of all `TAIL_STRIDE` ranks for which it stands.
    """
    ranks = np.append(np.arange(1, k + 1), k + 0.5 + TAIL_STRIDE * (np.arange(n_tail) + 0.5))
    n_ranks = np.repeat([1.0, TAIL_STRIDE], [k, n_tail])
    by_rank = {
        "log": 1 / np.log2(ranks + 1),
        "inverse": 1 / ranks,
        "shifted-inverse": 1 / (ranks + 2),
        "softmax-inverse": np.exp(1 / ranks),
        "uniform": np.ones(k + n_tail),
    }[kind]
    weights = n_ranks * by_rank
    return np.asarray(weights / max(weights.sum(), 1e-30), np.float32)


def total_weights(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sum (n_rows,) float32 of the weights of the neighbors that each row has; 1 where it has none."""
    totals = np.where(ids != NO_ROW, weights, np.float32(0)).sum(axis=1)
    totals[totals == 0] = 1
    return np.asarray(totals)


def join_tail(ids: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return lists (n_rows, k + n_tail) uint32 followed by their tails, without what is in both."""
    joined = np.empty((len(ids), ids.shape[1] + tail.shape[1]), np.uint32)
    _join_tails(ids, tail, NO_ROW, joined)
    return joined


@njit(nogil=True, cache=True)
def _join_tails(ids, tail, no_row, joined):  # type: ignore[no-untyped-def]
    """Write each list (n, k) followed by its tail (n, n_tail), with `no_row` for what is in both."""
    k = ids.shape[1]
    for i in range(ids.shape[0]):
        for s in range(k):
            joined[i, s] = ids[i, s]
        for t in range(tail.shape[1]):
            j = tail[i, t]
            for s in range(k):
                if ids[i, s] == j:
                    j = no_row
                    break
            joined[i, k + t] = j
