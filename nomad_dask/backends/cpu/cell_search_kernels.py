"""Numba kernels of the neighbor search: choice of cells, block scans, exact distances."""

from __future__ import annotations

import numpy as np
from numba import njit

# Sums may be reordered and there is no NaN: rows are finite, and without these flags no loop becomes SIMD code.
FAST_MATH = {"nnan", "nsz", "reassoc", "contract"}
SLACK = np.float32(1e-5)  # rounding error of a bound, relative to the squared norms from which it is computed


@njit(nogil=True, cache=True)
def insert(distances, ids, distance, row):  # type: ignore[no-untyped-def]
    """Insert a row into an ascending list, and drop the last one."""
    at = distances.shape[0] - 1
    while at > 0 and distances[at - 1] > distance:
        distances[at] = distances[at - 1]
        ids[at] = ids[at - 1]
        at -= 1
    distances[at] = distance
    ids[at] = row


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def center_targets(rows, center, out, norms):  # type: ignore[no-untyped-def]
    """Write ``rows - center`` and their squared norms; the last column is a residual norm, not centered."""
    p = rows.shape[1] - 1
    for i in range(rows.shape[0]):
        total = np.float32(0)
        for j in range(p):
            value = rows[i, j] - center[j]
            out[i, j] = value
            total += value * value
        out[i, p] = rows[i, p]
        norms[i] = total + rows[i, p] * rows[i, p]


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def center_queries(rows, picked, center, correlation, out, norms):  # type: ignore[no-untyped-def]
    """Write ``-2 (rows[picked] - center)`` and squared norms; the residual is weighted by its correlation."""
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


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def scan_block(products, query_norms, target_norms, picked, own_rows, first_target, distances, ids):  # type: ignore[no-untyped-def]
    """Merge a block of filter distances into the ascending lists of its queries.

    One pass marks the distances below the last of a list; then words of eight marks that are all zero are skipped.
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
def mark_probes(centroid_distances, cell_sizes, n_probes, min_rows, marks):  # type: ignore[no-untyped-def]
    """Set ``marks[c, q]`` for the nearest `n_probes` cells of every query, or more to contain `min_rows` rows."""
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
                # Valid cells too where distances are not finite and none is nearer.
                cells[:wanted] = np.arange(wanted)
                for c in range(n_cells):
                    if centroid_distances[q, c] < near[wanted - 1]:
                        insert(near[:wanted], cells[:wanted], centroid_distances[q, c], c)
            covered = 0
            for s in range(wanted):
                covered += cell_sizes[cells[s]]
            if covered >= min_rows or wanted == n_cells:
                break
            wanted = min(2 * wanted, n_cells)
        for s in range(wanted):
            marks[cells[s], q] = 1


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def bounded_distance(a, b, limit):  # type: ignore[no-untyped-def]
    """Return the squared distance of two rows, or any value above `limit` as soon as it exceeds that."""
    total = np.float32(0)
    start = 0
    while start < a.shape[0] and total <= limit:
        x = a[start : start + 128]  # views: an index that may be negative prevents SIMD code
        y = b[start : start + 128]
        for j in range(x.shape[0]):
            difference = x[j] - y[j]
            total += difference * difference
        start += 128
    return total


@njit(nogil=True, cache=True)
def rank_exactly(queries, rows, positions, ids, approximate, reach, out_distances, out_ids):  # type: ignore[no-untyped-def]
    """Fill ascending lists with the exact distances of each query to its candidates ``rows[positions]``."""
    n_kept = out_ids.shape[1]
    for i in range(queries.shape[0]):
        out_distances[i] = np.inf
        out_ids[i] = -1
        for s in range(positions.shape[1]):
            if ids[i, s] < 0:
                break
            limit = out_distances[i, n_kept - 1]
            if approximate[i, s] > reach * limit:
                break
            distance = bounded_distance(queries[i], rows[positions[i, s]], limit)
            if distance < limit:
                insert(out_distances[i], out_ids[i], distance, ids[i, s])


@njit(nogil=True, cache=True)
def scan_exactly(queries, own, bounds, rows, first, norms, distances, ids):  # type: ignore[no-untyped-def]
    """Merge a block of rows into exact lists; skip rows whose lower bound exceeds the last distance of the list."""
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
    """Add to ``counts[i, s]`` the number of values of row i between its limits s - 1 and s."""
    k = ascending.shape[1]
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if values[i, j] <= ascending[i, k - 1]:
                s = 0
                while ascending[i, s] < values[i, j]:
                    s += 1
                counts[i, s] += 1
