"""Numba kernels of one NN-descent round: each row tries the neighbors of its neighbors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from nomad_dask.backends.cpu.cell_search_kernels import FAST_MATH, bounded_distance, insert


class NeighborLists(NamedTuple):
    """Neighbors of every row, ascending by distance.

    Attributes
    ----------
    ids, distances : ndarray of int32, float32 (n, k)
        -1 and inf where there are fewer.
    is_new : ndarray of uint8 (n, k)
        Marks the entries of the last round.
    """

    ids: np.ndarray
    distances: np.ndarray
    is_new: np.ndarray


class ReverseLists(NamedTuple):
    """Rows that have each row as a neighbor, as `reverse_lists` writes them.

    Attributes
    ----------
    counts : ndarray of int32 (n,)
    ids : ndarray of int32 (n, max_candidates)
    is_new : ndarray of uint8 (n, max_candidates)
    """

    counts: np.ndarray
    ids: np.ndarray
    is_new: np.ndarray


class RefineParams(NamedTuple):
    """Parameters of `refine_rows`.

    Attributes
    ----------
    correlation, reach : float32
        See `filter_calibration.fit_correlation`.
    n_trials : int
        Rows per query that the filter passes on for exact distances.
    """

    correlation: np.float32
    reach: np.float32
    n_trials: int


@njit(nogil=True, cache=True)
def reverse_lists(ids, is_new, counts, reverse, reverse_is_new):  # type: ignore[no-untyped-def]
    """List for every row the rows that have it as a neighbor, nearest ranks first, up to the width of `reverse`."""
    width = reverse.shape[1]
    for s in range(ids.shape[1]):
        for i in range(ids.shape[0]):
            j = ids[i, s]
            if j >= 0 and counts[j] < width:
                reverse[j, counts[j]] = i
                reverse_is_new[j, counts[j]] = is_new[i, s]
                counts[j] += 1


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def filter_distance(a, b, correlation):  # type: ignore[no-untyped-def]
    """Return the squared distance of two projected rows."""
    p = a.shape[0] - 1
    x = a[:p]
    y = b[:p]
    total = np.float32(0)
    for j in range(x.shape[0]):
        difference = x[j] - y[j]
        total += difference * difference
    return total + a[p] * a[p] + b[p] * b[p] - np.float32(2) * correlation * a[p] * b[p]


@njit(nogil=True, cache=True)
def refine_rows(queries, projected, rows, lists, reverse, refined, params, last_query):  # type: ignore[no-untyped-def]
    """Try for each query the neighbors of its neighbors, in both directions, reading the old lists only.

    The filter chooses `params.n_trials` of them, which get exact distances. `last_query` is for each row the last
    query that met it.
    """
    max_candidates = reverse.ids.shape[1]
    near = np.empty(2 * max_candidates, np.int32)
    near_is_new = np.empty(2 * max_candidates, np.uint8)
    candidates = np.empty(2 * max_candidates * (2 * max_candidates + 1), np.int32)
    trials = np.empty(params.n_trials, np.int32)
    trial_distances = np.empty(params.n_trials, np.float32)
    k = lists.ids.shape[1]
    for q in range(queries.shape[0]):
        i = queries[q]
        n_near, n = _collect_near(i, lists, reverse, near, near_is_new, candidates, last_query)
        n = _collect_candidates(i, lists, reverse, near[:n_near], near_is_new, candidates, n, last_query)
        trials[:] = -1
        trial_distances[:] = params.reach * lists.distances[i, k - 1]
        for s in range(n):
            distance = filter_distance(projected[i], projected[candidates[s]], params.correlation)
            if distance < trial_distances[params.n_trials - 1]:
                insert(trial_distances, trials, distance, candidates[s])
        _insert_trials(i, rows, trials, lists, refined)


@njit(nogil=True, cache=True)
def _collect_near(i, lists, reverse, near, near_is_new, candidates, last_query):  # type: ignore[no-untyped-def]
    """Write the neighbors of row i in both directions, and which of these are candidates; return both numbers."""
    ids, _, is_new = lists
    counts, reverse_ids, reverse_is_new = reverse
    last_query[i] = i
    n_near = 0
    for s in range(ids.shape[1]):
        if ids[i, s] >= 0:
            last_query[ids[i, s]] = i
            if s < reverse_ids.shape[1]:
                near[n_near] = ids[i, s]
                near_is_new[n_near] = is_new[i, s]
                n_near += 1
    n_candidates = 0
    for s in range(counts[i]):
        near[n_near] = reverse_ids[i, s]
        near_is_new[n_near] = reverse_is_new[i, s]
        n_near += 1
        if last_query[reverse_ids[i, s]] != i:
            last_query[reverse_ids[i, s]] = i
            candidates[n_candidates] = reverse_ids[i, s]
            n_candidates += 1
    return n_near, n_candidates


@njit(nogil=True, cache=True)
def _collect_candidates(i, lists, reverse, near, near_is_new, candidates, n, last_query):  # type: ignore[no-untyped-def]
    """Append to `n` candidates the neighbors of `near` that row i has not met; return their number."""
    ids, _, is_new = lists
    counts, reverse_ids, reverse_is_new = reverse
    n_forward = min(reverse_ids.shape[1], ids.shape[1])
    for a in range(near.shape[0]):
        middle = near[a]
        for s in range(n_forward):
            other = ids[middle, s]
            if other >= 0 and last_query[other] != i and (near_is_new[a] or is_new[middle, s]):
                last_query[other] = i
                candidates[n] = other
                n += 1
        for s in range(counts[middle]):
            other = reverse_ids[middle, s]
            if last_query[other] != i and (near_is_new[a] or reverse_is_new[middle, s]):
                last_query[other] = i
                candidates[n] = other
                n += 1
    return n


@njit(nogil=True, cache=True)
def _insert_trials(i, rows, trials, lists, refined):  # type: ignore[no-untyped-def]
    """Write the list of row i with those of the trials that are nearer, and which entries are new."""
    ids, distances, _ = lists
    new_ids, new_distances, new_marks = refined
    k = ids.shape[1]
    new_ids[i] = ids[i]
    new_distances[i] = distances[i]
    for s in range(trials.shape[0]):
        if trials[s] < 0:
            break
        limit = new_distances[i, k - 1]
        distance = bounded_distance(rows[i], rows[trials[s]], limit)
        if distance < limit:
            insert(new_distances[i], new_ids[i], distance, trials[s])
    for s in range(k):
        new_marks[i, s] = 1
        for t in range(k):
            if ids[i, t] == new_ids[i, s]:
                new_marks[i, s] = 0
                break
