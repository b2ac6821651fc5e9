"""Weights of edges as codes of one byte: the graph is read in every epoch, and is most of the layout's memory."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.graph_kernels import nearest_levels
from nomad_dask.neighbors.graph import WeightedLists
from nomad_dask.neighbors.graph_files import WEIGHT_CODES, graph_file
from nomad_dask.planning.run_context import RunContext
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
        nearest_levels(weights[start:stop], levels[0], levels[-1], len(levels), codes[start:stop])

    (pool or Threads(1)).run(encode, len(weights), _EDGES_OF_THREAD)
    return codes


def load_edge_weights(run: RunContext, shard: int) -> np.ndarray:
    """Return the weight (n_edges,) float32 of each edge of a shard's graph."""
    weights = np.load(run.file(graph_file(shard, "weights")))
    if run.params.normalization == "point":
        return np.asarray(weights)
    return np.asarray(np.take(weights, np.load(run.file(graph_file(shard, WEIGHT_CODES)))))
