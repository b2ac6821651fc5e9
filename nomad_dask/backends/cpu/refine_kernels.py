"""Numba kernels of one NN-descent round: each row tries the neighbors of its neighbors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from nomad_dask.backends.cpu.cell_search_kernels import FAST_MATH, bounded_distance, insert


class Links(NamedTuple):
    """The edges of every row in both directions, new ones first; see `link_rows`.

    Attributes
    ----------
    rows : ndarray of int32 (n, k + max_candidates)
    n_new, n_all : ndarray of int32 (n,)
        How many of them are new, and how many there are.
    """

    rows: np.ndarray
    n_new: np.ndarray
    n_all: np.ndarray


class TriedCells(NamedTuple):
    """Cells whose rows have been compared before.

    Attributes
    ----------
    cell_of_row : ndarray of int32 (n,)
    probed : ndarray of uint16 or uint32 (n, n_probes)
        Cells that were searched for each row.
    """

    cell_of_row: np.ndarray
    probed: np.ndarray


class Met(NamedTuple):
    """The last query that met each row, and the last that probed each cell: scratch memory of a thread.

    Attributes
    ----------
    rows : ndarray of int32 (n,)
    cells : ndarray of int32 (n_cells,)
    """

    rows: np.ndarray
    cells: np.ndarray


class RefineParams(NamedTuple):
    """Parameters of `refine_rows`.

    Attributes
    ----------
    n_axes : int
        Columns of the filter without the residual norm, if there is one.
    correlation, reach : float32
        See `filter_calibration.fit_correlation`.
    n_trials : int
        Rows per query that the filter passes on for exact distances.
    """

    n_axes: int
    correlation: np.float32
    reach: np.float32
    n_trials: int


@njit(nogil=True, cache=True)
def link_rows(ids, is_new, max_candidates, links):  # type: ignore[no-untyped-def]
    """Link every row with its neighbors, and with up to `max_candidates` rows that have it as one, nearest first."""
    rows, n_new, n_all = links
    n_reverse = np.zeros(ids.shape[0], np.int32)
    n_all[:] = 0
    for new in (1, 0):
        for s in range(ids.shape[1]):
            for i in range(ids.shape[0]):
                j = ids[i, s]
                if j < 0 or is_new[i, s] != new:
                    continue
                rows[i, n_all[i]] = j
                n_all[i] += 1
                if n_reverse[j] < max_candidates:
                    rows[j, n_all[j]] = i
                    n_all[j] += 1
                    n_reverse[j] += 1
        if new:
            n_new[:] = n_all


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def filter_distance(a, b, p, correlation):  # type: ignore[no-untyped-def]
    """Return the squared distance of two rows in a filter with `p` axes."""
    x = a[:p]
    y = b[:p]
    total = np.float32(0)
    for j in range(x.shape[0]):
        difference = x[j] - y[j]
        total += difference * difference
    if p == a.shape[0]:
        return total
    return total + a[p] * a[p] + b[p] * b[p] - np.float32(2) * correlation * a[p] * b[p]


@njit(nogil=True, cache=True)
def refine_rows(queries, projected, rows, lists, links, tried, refined, params, met):  # type: ignore[no-untyped-def]
    """Try for each query the neighbors of its neighbors, in both directions, reading the old lists only.

    The filter chooses `params.n_trials` of them, which get exact distances.
    """
    width = links.rows.shape[1]
    candidates = np.empty(width * (width + 1) + 1, np.int32)
    trials = np.empty(params.n_trials, np.int32)
    trial_distances = np.empty(params.n_trials, np.float32)
    k = lists.ids.shape[1]
    for q in range(queries.shape[0]):
        i = queries[q]
        for cell in tried.probed[i]:
            met.cells[cell] = i
        n = _collect_candidates(i, lists.ids, links, tried.cell_of_row, candidates, met)
        trials[:] = -1
        trial_distances[:] = params.reach * lists.distances[i, k - 1]
        for s in range(n):
            distance = filter_distance(projected[i], projected[candidates[s]], params.n_axes, params.correlation)
            if distance < trial_distances[params.n_trials - 1]:
                insert(trial_distances, trials, distance, candidates[s])
        _insert_trials(i, rows, trials, lists, refined)


@njit(nogil=True, cache=True)
def _collect_candidates(i, ids, links, cell_of_row, candidates, met):  # type: ignore[no-untyped-def]
    """Write the rows at most two edges from row i, one of them new, that have not been tried; return their number."""
    linked, n_new, n_all = links
    last_query, last_prober = met
    last_query[i] = i
    for s in range(ids.shape[1]):
        if ids[i, s] >= 0:
            last_query[ids[i, s]] = i
    n = 0
    for a in range(n_new[i]):
        other = linked[i, a]
        if last_query[other] != i:
            last_query[other] = i
            candidates[n] = other
            n += last_prober[cell_of_row[other]] != i
    for a in range(n_all[i]):
        middle = linked[i, a]
        for s in range(n_all[middle] if a < n_new[i] else n_new[middle]):
            other = linked[middle, s]
            if last_query[other] != i:
                last_query[other] = i
                candidates[n] = other
                n += last_prober[cell_of_row[other]] != i
    return n


@njit(nogil=True, cache=True)
def _insert_trials(i, rows, trials, lists, refined):  # type: ignore[no-untyped-def]
    """Write the list of row i with those of the trials that are nearer, and which entries are new."""
    ids, distances, _ = lists
    new_ids, new_distances, new_marks = refined
    k = ids.shape[1]
    new_ids[i] = ids[i]
    new_distances[i] = distances[i]
    n_inserted = 0
    for s in range(trials.shape[0]):
        if trials[s] < 0:
            break
        limit = new_distances[i, k - 1]
        distance = bounded_distance(rows[i], rows[trials[s]], limit)
        if distance < limit:
            insert(new_distances[i], new_ids[i], distance, trials[s])
            n_inserted += 1
    new_marks[i] = 0
    if n_inserted == 0:
        return
    for s in range(k):
        new_marks[i, s] = 1
        for t in range(k):
            if ids[i, t] == new_ids[i, s]:
                new_marks[i, s] = 0
                break
