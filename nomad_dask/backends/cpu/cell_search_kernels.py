"""The inner loops of the neighbour search: block scans, exact distances, one round of refinement."""

from __future__ import annotations

import numpy as np
from numba import njit

# Reordered sums and no NaN: rows are finite, and without this no loop below becomes SIMD.
_FAST = {"nnan", "nsz", "reassoc", "contract"}
SLACK = np.float32(1e-5)  # rounding of a bound, relative to the squared norms it is made of


@njit(nogil=True, cache=True)
def insert(distances, ids, distance, row):  # type: ignore[no-untyped-def]
    """Put a row into an ascending list, dropping its last."""
    at = distances.shape[0] - 1
    while at > 0 and distances[at - 1] > distance:
        distances[at] = distances[at - 1]
        ids[at] = ids[at - 1]
        at -= 1
    distances[at] = distance
    ids[at] = row


@njit(nogil=True, cache=True, fastmath=_FAST)
def center_targets(rows, center, out, norms):  # type: ignore[no-untyped-def]
    """Write ``rows - center`` and their squared norms; the last column is a residual norm, not centred."""
    p = rows.shape[1] - 1
    for i in range(rows.shape[0]):
        total = np.float32(0)
        for j in range(p):
            value = rows[i, j] - center[j]
            out[i, j] = value
            total += value * value
        out[i, p] = rows[i, p]
        norms[i] = total + rows[i, p] * rows[i, p]


@njit(nogil=True, cache=True, fastmath=_FAST)
def center_queries(rows, picked, center, correlation, out, norms):  # type: ignore[no-untyped-def]
    """Write ``-2 (rows[picked] - center)`` and squared norms; the residual is weighed by its correlation."""
    p = rows.shape[1] - 1
    for i in range(picked.shape[0]):
        q = picked[i]
        total = np.float32(0)
        for j in range(p):
            value = rows[q, j] - center[j]
            out[i, j] = np.float32(-2) * value
            total += value * value
        out[i, p] = np.float32(-2) * correlation * rows[q, p]
        norms[i] = total + rows[q, p] * rows[q, p]


@njit(nogil=True, cache=True, fastmath=_FAST)
def scan_block(products, query_norms, target_norms, picked, own_rows, first_target, distances, ids):  # type: ignore[no-untyped-def]
    """Merge a block of screened distances into the ascending lists of its queries.

    One pass marks what is below the end of a list; then only words of eight marks that are not all zero
    are looked at.
    """
    n_targets = products.shape[1]
    last = distances.shape[1] - 1
    words = np.zeros((n_targets + 7) // 8, np.uint64)
    below = words.view(np.uint8)[:n_targets]
    for i in range(products.shape[0]):
        q = picked[i]
        own = own_rows[q] - first_target
        offset = query_norms[i]
        near = distances[q]
        near_ids = ids[q]
        bound = near[last] - offset
        row = products[i]
        for j in range(n_targets):
            below[j] = row[j] + target_norms[j] < bound
        for w in range(words.shape[0]):
            if words[w] == 0:
                continue
            for j in range(8 * w, min(8 * w + 8, n_targets)):
                value = row[j] + target_norms[j]
                if below[j] and value < bound and j != own:
                    insert(near, near_ids, value + offset, first_target + j)
                    bound = near[last] - offset


@njit(nogil=True, cache=True)
def mark_probes(centroid_distances, cell_sizes, n_probes, enough, marks):  # type: ignore[no-untyped-def]
    """Set ``marks[c, q]`` for the nearest `n_probes` cells of every query, or more to hold `enough` rows."""
    n_cells = centroid_distances.shape[1]
    near = np.empty(n_cells, np.float32)
    cells = np.empty(n_cells, np.int32)
    for q in range(centroid_distances.shape[0]):
        wanted = n_probes
        while True:
            if wanted > 64:
                cells[:] = np.argsort(centroid_distances[q], kind="mergesort")
            else:
                near[:wanted] = np.inf
                for c in range(n_cells):
                    if centroid_distances[q, c] < near[wanted - 1]:
                        insert(near[:wanted], cells[:wanted], centroid_distances[q, c], c)
            covered = 0
            for s in range(wanted):
                covered += cell_sizes[cells[s]]
            if covered >= enough or wanted == n_cells:
                break
            wanted = min(2 * wanted, n_cells)
        for s in range(wanted):
            marks[cells[s], q] = 1


@njit(nogil=True, cache=True, fastmath=_FAST)
def bounded_distance(a, b, limit):  # type: ignore[no-untyped-def]
    """Return the squared distance of two rows, or something above `limit` as soon as that is sure."""
    total = np.float32(0)
    start = 0
    while start < a.shape[0] and total <= limit:
        x = a[start : start + 128]  # views, since an index that may be negative would not become SIMD
        y = b[start : start + 128]
        for j in range(x.shape[0]):
            difference = x[j] - y[j]
            total += difference * difference
        start += 128
    return total


@njit(nogil=True, cache=True)
def rank_exactly(queries, rows, positions, ids, screened, reach, out_distances, out_ids):  # type: ignore[no-untyped-def]
    """Fill ascending lists with the exact distances of each query to its candidates ``rows[positions]``."""
    n_kept = out_ids.shape[1]
    for i in range(queries.shape[0]):
        out_distances[i] = np.inf
        out_ids[i] = -1
        for s in range(positions.shape[1]):
            if ids[i, s] < 0:
                break
            limit = out_distances[i, n_kept - 1]
            if screened[i, s] > reach * limit:
                break
            distance = bounded_distance(queries[i], rows[positions[i, s]], limit)
            if distance < limit:
                insert(out_distances[i], out_ids[i], distance, ids[i, s])


@njit(nogil=True, cache=True)
def scan_exactly(queries, own, bounds, rows, first, norms, distances, ids):  # type: ignore[no-untyped-def]
    """Merge a block of rows into exact lists, skipping rows whose lower bound is above the list's last."""
    n_rows = rows.shape[0]
    last = distances.shape[1] - 1
    for i in range(queries.shape[0]):
        limit = distances[i, last]
        for j in range(n_rows):
            if bounds[i, j] > limit + SLACK * (norms[i] + limit) or first + j == own[i]:
                continue
            distance = bounded_distance(queries[i], rows[j], limit)
            if distance < limit:
                insert(distances[i], ids[i], distance, first + j)
                limit = distances[i, last]


@njit(nogil=True, cache=True)
def count_below(values, ascending, counts):  # type: ignore[no-untyped-def]
    """Add to ``counts[i, s]`` the values of row i that lie between its limits s - 1 and s."""
    k = ascending.shape[1]
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if values[i, j] <= ascending[i, k - 1]:
                s = 0
                while ascending[i, s] < values[i, j]:
                    s += 1
                counts[i, s] += 1


@njit(nogil=True, cache=True)
def reverse_lists(ids, fresh, counts, reverse, reverse_fresh):  # type: ignore[no-untyped-def]
    """List for every row those that hold it as a neighbour, nearest ranks first, as many as there is room."""
    room = reverse.shape[1]
    for s in range(ids.shape[1]):
        for i in range(ids.shape[0]):
            j = ids[i, s]
            if j >= 0 and counts[j] < room:
                reverse[j, counts[j]] = i
                reverse_fresh[j, counts[j]] = fresh[i, s]
                counts[j] += 1


@njit(nogil=True, cache=True, fastmath=_FAST)
def screened_distance(a, b, correlation):  # type: ignore[no-untyped-def]
    """Return the screened squared distance of two rows."""
    p = a.shape[0] - 1
    x = a[:p]
    y = b[:p]
    total = np.float32(0)
    for j in range(x.shape[0]):
        difference = x[j] - y[j]
        total += difference * difference
    return total + a[p] * a[p] + b[p] * b[p] - np.float32(2) * correlation * a[p] * b[p]


@njit(nogil=True, cache=True)
def refine_rows(queries, screen, correlation, reach, rows, n_trials, old, held, new, seen):  # type: ignore[no-untyped-def]
    """Try for each query the neighbours of its neighbours, either way round, reading the old lists only.

    The screen picks `n_trials` of them, which get exact distances. `seen` holds for every row the last
    query that met it.
    """
    ids, distances, fresh = old
    n_held, held_by, held_fresh = held
    new_ids, new_distances, new_fresh = new
    k = ids.shape[1]
    fan = held_by.shape[1]
    near = np.empty(2 * fan, np.int32)
    near_fresh = np.empty(2 * fan, np.uint8)
    trials = np.empty(n_trials, np.int32)
    trial_distances = np.empty(n_trials, np.float32)
    met = np.empty(2 * fan * (2 * fan + 1), np.int32)
    for q in range(queries.shape[0]):
        i = queries[q]
        seen[i] = i
        n_near = 0
        for s in range(k):
            if ids[i, s] >= 0:
                seen[ids[i, s]] = i
                if s < fan:
                    near[n_near] = ids[i, s]
                    near_fresh[n_near] = fresh[i, s]
                    n_near += 1
        n_met = 0
        for s in range(n_held[i]):
            near[n_near] = held_by[i, s]
            near_fresh[n_near] = held_fresh[i, s]
            n_near += 1
            if seen[held_by[i, s]] != i:
                seen[held_by[i, s]] = i
                met[n_met] = held_by[i, s]
                n_met += 1
        for a in range(n_near):
            middle = near[a]
            for s in range(min(fan, k)):
                other = ids[middle, s]
                if other >= 0 and seen[other] != i and (near_fresh[a] or fresh[middle, s]):
                    seen[other] = i
                    met[n_met] = other
                    n_met += 1
            for s in range(n_held[middle]):
                other = held_by[middle, s]
                if seen[other] != i and (near_fresh[a] or held_fresh[middle, s]):
                    seen[other] = i
                    met[n_met] = other
                    n_met += 1
        trials[:] = -1
        trial_distances[:] = reach * distances[i, k - 1]
        for s in range(n_met):
            distance = screened_distance(screen[i], screen[met[s]], correlation)
            if distance < trial_distances[n_trials - 1]:
                insert(trial_distances, trials, distance, met[s])
        new_ids[i] = ids[i]
        new_distances[i] = distances[i]
        for s in range(n_trials):
            if trials[s] < 0:
                break
            limit = new_distances[i, k - 1]
            distance = bounded_distance(rows[i], rows[trials[s]], limit)
            if distance < limit:
                insert(new_distances[i], new_ids[i], distance, trials[s])
        for s in range(k):
            new_fresh[i, s] = 1
            for t in range(k):
                if ids[i, t] == new_ids[i, s]:
                    new_fresh[i, s] = 0
                    break
