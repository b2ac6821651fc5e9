"""Patches: a few near rows whose mean stands for them in other shards."""

from __future__ import annotations

import numpy as np
from numba import njit

# Share of a shard's patches that goes to the rows other shards have edges with; the rest only repel.
_SEEN_SHARE = 15 / 16


@njit(nogil=True, cache=True)
def _group(order, pulls, indptr, indices, weights, size, limit, patch_of_row):  # type: ignore[no-untyped-def]
    """Group rows in `order` with their nearest free ones, up to `size` rows, until the rest may stand alone.

    Return the number of groups: at most `limit`, where groups of `size` can do that.
    """
    n_groups, n_free = 0, len(order)
    for i in order:
        if patch_of_row[i] >= 0:
            continue
        patch_of_row[i] = n_groups
        n_free -= 1
        for _ in range(size - 1):
            if n_groups + 1 + n_free <= limit:
                break
            best, best_weight = -1, np.float32(0)
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if pulls[j] > 0 and patch_of_row[j] < 0 and weights[e] > best_weight:
                    best, best_weight = j, weights[e]
            if best < 0:
                break
            patch_of_row[best] = n_groups
            n_free -= 1
        n_groups += 1
    return n_groups


def make_patches(
    pulls: np.ndarray, indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, quota: int
) -> np.ndarray:
    """Return the patch (rows,) int32 of each row: at most `quota` patches.

    Rows that pull on other shards' rows are grouped with their nearest neighbours, which end up near them in
    the map, in groups as small as the quota allows, those that pull least first. The others are only
    seen from afar: runs of rows in cell order do.

    Parameters
    ----------
    pulls : ndarray of float64 (rows,)
        Weight of each row's edges to other shards; 0 for rows that have none.
    indptr, indices, weights : ndarray
        The shard's graph.
    quota : int
    """
    n = len(pulls)
    if n <= quota:
        return np.arange(n, dtype=np.int32)
    seen = pulls > 0
    n_seen = int(seen.sum())
    order = np.argsort(pulls, kind="stable")[n - n_seen :]
    for_seen = min(n_seen, int(quota * _SEEN_SHARE))
    patch_of_row = np.full(n, -1, np.int32)
    used, size = 0, max(1, n_seen // max(for_seen, 1))
    largest = int(np.diff(indptr).max()) + 1  # a row and all its neighbours
    while n_seen:
        patch_of_row[:] = -1
        used = int(_group(order, pulls, indptr, indices, weights, size, for_seen, patch_of_row))
        if used <= for_seen:
            break
        size += 1
        if size > largest:  # rows without free neighbours alone are too many: runs in cell order for them too
            patch_of_row[seen] = np.arange(n_seen) * for_seen // n_seen
            used = for_seen
            break
    hidden = np.flatnonzero(patch_of_row < 0)
    patch_of_row[hidden] = used + np.arange(len(hidden)) * (quota - used) // max(len(hidden), 1)
    return patch_of_row
