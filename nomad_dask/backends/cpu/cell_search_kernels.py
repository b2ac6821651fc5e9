"""Numba kernels of the neighbor search: choice of cells, block scans, exact distances."""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - kernels use it for products; loaded before its threads are limited
from numba import njit

# Sums may be reordered and there is no NaN: rows are finite, and without these flags no loop becomes SIMD code.
FAST_MATH = {"nnan", "nsz", "reassoc", "contract"}
PROBE_ROWS = 512
"""Rows of a cell whose distances are computed at once."""
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
def center_targets(rows, picked, center, out, norms):  # type: ignore[no-untyped-def]
    """Write ``rows[picked] - center`` and squared norms; a column beyond the center is a residual norm, as it is."""
    p = center.shape[0]
    for i in range(picked.shape[0]):
        row = rows[picked[i]]
        target = out[i]
        total = np.float32(0)
        for j in range(p):
            value = row[j] - center[j]
            target[j] = value
            total += value * value
        if p < row.shape[0]:
            target[p] = row[p]
            total += row[p] * row[p]
        norms[i] = total


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def center_queries(rows, picked, center, correlation, out, norms):  # type: ignore[no-untyped-def]
    """Write ``-2 (rows[picked] - center)`` and squared norms; the residual is weighted by its correlation."""
    p = center.shape[0]
    for i in range(picked.shape[0]):
        row = rows[picked[i]]
        query = out[i]
        total = np.float32(0)
        for j in range(p):
            value = row[j] - center[j]
            query[j] = np.float32(-2) * value
            total += value * value
        if p < row.shape[0]:
            query[p] = np.float32(-2) * correlation * row[p]
            total += row[p] * row[p]
        norms[i] = total


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def scan_block(products, query_norms, target_norms, picked, own_rows, target_rows, distances, ids):  # type: ignore[no-untyped-def]
    """Merge a block of filter distances into the ascending lists of its queries.

    One pass marks the distances below the last of a list; then words of eight marks that are all zero are skipped.
    Each query begins elsewhere: of many equal rows, the same few would else be the neighbors of all.
    """
    n_targets = products.shape[1]
    last = distances.shape[1] - 1
    words = np.zeros((n_targets + 7) // 8, np.uint64)
    below = words.view(np.uint8)[:n_targets]
    for i in range(products.shape[0]):
        q = picked[i]
        own = own_rows[q]
        offset = query_norms[i]
        near = distances[q]
        near_ids = ids[q]
        bound = near[last] - offset
        row = products[i]
        for j in range(n_targets):
            below[j] = row[j] + target_norms[j] < bound
        for step in range(words.shape[0]):
            w = (own + step) % words.shape[0]
            if words[w] == 0:
                continue
            for j in range(8 * w, min(8 * w + 8, n_targets)):
                value = row[j] + target_norms[j]
                if below[j] and value < bound and target_rows[j] != own:
                    insert(near, near_ids, value + offset, target_rows[j])
                    bound = near[last] - offset


@njit(nogil=True, cache=True)
def sort_nearest(distances, n, near, ids):  # type: ignore[no-untyped-def]
    """Write the ids of at least the `n` least distances to the front of `ids`, ascending; of equal ones in order.

    Only distances up to the n-th least are sorted, and `near` is room for as many as there are.
    """
    limit = np.partition(distances, n - 1)[n - 1]
    count = 0
    for i in range(distances.shape[0]):
        if distances[i] <= limit:
            near[count] = distances[i]
            ids[count] = i
            count += 1
    if count < n:  # the limit is NaN
        count = distances.shape[0]
        for i in range(count):
            near[i] = distances[i]
            ids[i] = i
    # Element by element: assigning arrays would compile checks of shapes, which takes seconds.
    found = ids[:count].copy()
    for s, place in enumerate(np.argsort(near[:count], kind="mergesort")):
        ids[s] = found[place]


@njit(nogil=True, cache=True)
def choose_probes(centroid_distances, orders, order_of_query, cell_sizes, n_probes, min_rows, chosen):  # type: ignore[no-untyped-def]
    """Write the nearest `n_probes` cells of every query, nearest first, or twice as many, and so on, up to `min_rows`.

    Cells are compared in the order ``orders[order_of_query[q]]``: the nearer the first ones, the fewer are inserted.
    `chosen` (queries, width) int32 is filled up with -1. Returns whether its width is enough.
    """
    n_cells = centroid_distances.shape[1]
    near = np.empty(n_cells, np.float32)
    cells = np.empty(n_cells, np.int32)
    for q in range(centroid_distances.shape[0]):
        wanted = n_probes
        while True:
            if wanted > 64:
                sort_nearest(centroid_distances[q], wanted, near, cells)
            else:
                near[:wanted] = np.inf
                # Valid cells too where distances are not finite and none is nearer.
                for s in range(wanted):
                    cells[s] = s
                for c in orders[order_of_query[q]]:
                    distance = centroid_distances[q, c]
                    if distance < near[wanted - 1]:
                        insert(near[:wanted], cells[:wanted], distance, c)
            covered = 0
            for s in range(wanted):
                covered += cell_sizes[cells[s]]
            if covered >= min_rows or wanted == n_cells:
                break
            wanted = min(2 * wanted, n_cells)
        if wanted > chosen.shape[1]:
            return False
        for s in range(chosen.shape[1]):
            chosen[q, s] = cells[s] if s < wanted else -1
    return True


@njit(nogil=True, cache=True)
def count_nearer(centroid_distances, cells, ranks):  # type: ignore[no-untyped-def]
    """Write how many cells are nearer to query q than each of ``cells[q]``; of equally near ones, those before it."""
    for q in range(cells.shape[0]):
        distances = centroid_distances[q]
        for i in range(cells.shape[1]):
            cell = cells[q, i]
            limit = distances[cell]
            count = 0
            for c in range(distances.shape[0]):
                count += distances[c] < limit
            for c in range(cell):
                count += distances[c] == limit
            ranks[q, i] = count


@njit(nogil=True, cache=True)
def group_by_cell(chosen, n_cells):  # type: ignore[no-untyped-def]
    """Return the queries int32 that probe each cell, cell by cell, and where those of each cell begin."""
    offsets = np.zeros(n_cells + 1, np.int64)
    for q in range(chosen.shape[0]):
        for s in range(chosen.shape[1]):
            if chosen[q, s] >= 0:
                offsets[chosen[q, s] + 1] += 1
    offsets = np.cumsum(offsets)
    ends = offsets[:-1].copy()
    picked = np.empty(offsets[-1], np.int32)
    for q in range(chosen.shape[0]):
        for s in range(chosen.shape[1]):
            c = chosen[q, s]
            if c >= 0:
                picked[ends[c]] = q
                ends[c] += 1
    return picked, offsets


@njit(nogil=True, cache=True)
def probe_block(queries, rows_of_queries, probing, center, rows, places, members, correlation, lists):  # type: ignore[no-untyped-def]
    """Merge the members of a cell, which are ``rows[places]``, into the lists of the queries that probe it."""
    distances, ids = lists
    m, n, d = probing.shape[0], places.shape[0], rows.shape[1]
    if m == 0:
        return
    scaled, norms = np.empty((m, d), np.float32), np.empty(m, np.float32)
    targets, target_norms = np.empty((n, d), np.float32), np.empty(n, np.float32)
    center_queries(rows_of_queries, probing, center, correlation, scaled, norms)
    center_targets(rows, places, center, targets, target_norms)
    scan_block(np.dot(scaled, targets.T), norms, target_norms, probing, queries, members, distances, ids)


@njit(nogil=True, cache=True)
def probe_cells(queries, projected, picked, picked_offsets, cells, centers, members, offsets, correlation, lists):  # type: ignore[no-untyped-def]
    """Merge the rows of cells into the lists of the queries that probe them.

    `picked` and `picked_offsets` are those of `group_by_cell` for `cells`, whose members are
    ``members[offsets[c] : offsets[c + 1]]``; `lists` are distances and ids (queries, n_candidates), ascending.
    """
    distances, ids = lists
    d = projected.shape[1]
    most = 0
    for c in range(cells.shape[0]):
        most = max(most, picked_offsets[c + 1] - picked_offsets[c])
    scaled = np.empty((most, d), np.float32)
    norms = np.empty(most, np.float32)
    targets = np.empty((PROBE_ROWS, d), np.float32)
    target_norms = np.empty(PROBE_ROWS, np.float32)
    products = np.empty(most * PROBE_ROWS, np.float32)
    for c in range(cells.shape[0]):
        probing = picked[picked_offsets[c] : picked_offsets[c + 1]]
        m = probing.shape[0]
        if m == 0:
            continue
        cell = cells[c]
        center_queries(projected, queries[probing], centers[c], correlation, scaled, norms)
        for start in range(offsets[cell], offsets[cell + 1], PROBE_ROWS):
            rows = members[start : min(start + PROBE_ROWS, offsets[cell + 1])]
            n = rows.shape[0]
            center_targets(projected, rows, centers[c], targets, target_norms)
            block = products[: m * n].reshape(m, n)
            np.dot(scaled[:m], targets[:n].T, block)
            scan_block(block, norms, target_norms, probing, queries, rows, distances, ids)


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
