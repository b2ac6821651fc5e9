"""Positions of new rows on the map of a model, from their neighbors among its rows."""

from __future__ import annotations

import math

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import NewRowGraph, StepParams
from nomad_dask.backends.rank_weights import rank_weights
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params

# Epochs, learning rate, momentum and longest step, in map units: new rows start near where they end.
_N_EPOCHS, _LEARNING_RATE, _MOMENTUM, _MAX_STEP = 50, 2.0, 0.9, 5.0
# Rows that start at the same place are spread around it, this far from each other.
_SPREAD = 0.1
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_ROWS_AT_ONCE = 1 << 16


def place(
    backend: Backend,
    stored: np.ndarray,
    neighbors: np.ndarray,
    is_stored: np.ndarray,
    partition_sum: float,
    params: Params,
) -> np.ndarray:
    """Return positions (n, dim) float32 of new rows.

    They start at the median of their neighbors' positions, which one of them far from the others does not move, unlike
    the mean. Then they move among the rows of the map, which stay. A row that is on the map already gets its position.

    Parameters
    ----------
    backend : Backend
    stored : ndarray of float32 (n_stored, dim)
        Positions of the rows of the map.
    neighbors : ndarray of int64 (n, k)
        Rows of the map, nearest first; -1 where there are fewer.
    is_stored : ndarray of bool (n,)
        Whether a row is equal to its nearest neighbor.
    partition_sum : float
        Z of the map.
    params : Params
        Of the map.
    """
    n_new, n_stored = len(neighbors), len(stored)
    start = np.where(is_stored[:, None], stored[neighbors[:, 0]], median_positions(stored, neighbors))
    # Sums round in the order of the rows, which must not depend on that of the input.
    order = np.lexsort((*neighbors.T[::-1], *start.T[::-1]))
    start = spread_equal(start[order])
    weights = rank_weights(neighbors.shape[1], params.affinity, 0)
    graph = NewRowGraph(
        start=start,
        neighbors=neighbors[order],
        # Each p(j|i) for both directions: the rows of the map would choose a row like this as often as it chooses them.
        weights=(2 * weights / weights.sum()).astype(np.float32),
        # n/Z of the map with the new rows, if these are distributed like the others: Z grows as the number of pairs.
        repulsion_factor=2 * n_stored**2 / (max(partition_sum, 1.0) * (n_stored + n_new)),
    )
    moved = backend.place_new_rows(stored, graph, params.mesh_spacing, _steps(params, n_stored))
    positions = np.empty_like(start)
    positions[order] = np.where(is_stored[order, None], start, moved)
    return positions


def _steps(params: Params, n_stored: int) -> list[StepParams]:
    """Return the parameters of each epoch: the learning rate falls to zero, the attraction is that of the map's end."""
    exaggeration = make_schedule(params, n_stored).late_exaggeration
    rates = _LEARNING_RATE * (1 - np.arange(_N_EPOCHS) / _N_EPOCHS)
    return [StepParams(i, float(rate), _MOMENTUM, _MAX_STEP, exaggeration) for i, rate in enumerate(rates)]


def median_positions(stored: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return the median (n, dim) float32 of the positions of the neighbors of each row, axis by axis."""
    medians = np.empty((len(neighbors), stored.shape[1]), np.float32)
    for start in range(0, len(neighbors), _ROWS_AT_ONCE):
        part = neighbors[start : start + _ROWS_AT_ONCE]
        positions = np.where(part[:, :, None] >= 0, stored[part], np.nan)
        medians[start : start + len(part)] = np.nanmedian(positions, axis=1)
    return medians


def spread_equal(start: np.ndarray) -> np.ndarray:
    """Return positions in which equal ones are spread around their place like the seeds of a sunflower.

    Equal rows would feel equal forces and stay on one point. The first of them stays where it is.
    """
    order = np.lexsort(start.T[::-1])
    ordered = start[order]
    is_first = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    firsts = np.maximum.accumulate(np.where(is_first, np.arange(len(start)), 0))
    ranks = np.empty(len(start), np.int64)
    ranks[order] = np.arange(len(start)) - firsts
    radius, angle = _SPREAD * np.sqrt(ranks), _GOLDEN_ANGLE * ranks
    spread = start.copy()
    spread[:, 0] += radius * np.cos(angle)
    spread[:, 1] += radius * np.sin(angle)
    return spread
