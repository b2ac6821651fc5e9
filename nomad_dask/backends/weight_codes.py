"""Weights of edges as codes of one byte: the graph is read in every epoch, and is most of the layout's memory."""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.backends.weighted_lists import WeightedLists
from nomad_dask.utils.threads import Threads

N_LEVELS = 256
"""Weights that a code can stand for."""
_EDGES_OF_THREAD = 1 << 20


def weight_levels(lists: WeightedLists) -> np.ndarray:
    """Return the weights (256,) float32 that codes stand for: in equal ratios, from the smallest a_ij to the largest.

    The smallest is that of an edge in one direction, from a row with all neighbors to the farthest of them; the
    largest that of an edge in both directions, from rows with the fewest neighbors to the nearest.
    """
    if not lists.weights.size or not lists.totals.size:
        return np.ones(N_LEVELS, np.float32)
    smallest = lists.weights.min() / lists.totals.max()
    largest = 2 * lists.weights.max() / lists.totals.min()
    return np.geomspace(smallest, largest, N_LEVELS, dtype=np.float64).astype(np.float32)


def encode_weights(weights: np.ndarray, levels: np.ndarray, pool: Threads | None = None) -> np.ndarray:
    """Return the code (n_edges,) uint8 of the level nearest to each weight (n_edges,), by their ratio."""
    codes = np.empty(len(weights), np.uint8)

    def encode(start: int, stop: int) -> None:
        _nearest_levels(weights[start:stop], levels[0], levels[-1], len(levels), codes[start:stop])

    (pool or Threads(1)).run(encode, len(weights), _EDGES_OF_THREAD)
    return codes


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _nearest_levels(weights, smallest, largest, n_levels, codes):  # type: ignore[no-untyped-def]
    """Write for each weight the nearest of up to 256 levels, which are in equal ratios, into `codes` (n,) uint8."""
    levels_per_unit = (n_levels - 1) / np.log(largest / smallest)
    for e in range(weights.size):
        codes[e] = np.uint8(min(n_levels - 1.0, np.log(weights[e] / smallest) * levels_per_unit + 0.5))
