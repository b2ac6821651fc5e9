"""Patches: a few near rows whose mean stands for them in other shards."""

from __future__ import annotations

import numpy as np
from numba import njit

# Share of a shard's patches that goes to the rows other shards have edges with; the rest only repel.
_SEEN_SHARE = 7 / 8


@njit(nogil=True, cache=True)
def _group(seen, indptr, indices, weights, size, patch_of_row):  # type: ignore[no-untyped-def]
    """Group each row that is seen with its nearest free ones, up to `size` rows; return the number of groups."""
    n_groups = 0
    for i in range(len(seen)):
        if not seen[i] or patch_of_row[i] >= 0:
            continue
        patch_of_row[i] = n_groups
        for _ in range(size - 1):
            best, best_weight = -1, np.float32(0)
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if seen[j] and patch_of_row[j] < 0 and weights[e] > best_weight:
                    best, best_weight = j, weights[e]
            if best < 0:
                break
            patch_of_row[best] = n_groups
        n_groups += 1
    return n_groups


def make_patches(
    seen: np.ndarray, indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, quota: int
) -> np.ndarray:
    """Return the patch (rows,) int32 of each row: at most `quota` patches.

    Rows that other shards have edges with are grouped with their nearest neighbours, which end up near them
    in the map, in groups as small as the quota allows. The others are only seen from afar: runs of rows in
    cell order do.

    Parameters
    ----------
    seen : ndarray of bool (rows,)
        Rows at an end of an edge between shards.
    indptr, indices, weights : ndarray
        The shard's graph.
    quota : int
    """
    n = len(seen)
    if n <= quota:
        return np.arange(n, dtype=np.int32)
    n_seen = int(seen.sum())
    for_seen = min(n_seen, int(quota * _SEEN_SHARE))
    patch_of_row = np.full(n, -1, np.int32)
    used, size = 0, max(1, n_seen // max(for_seen, 1))
    largest = int(np.diff(indptr).max()) + 1  # a row and all its neighbours
    while n_seen:
        patch_of_row[:] = -1
        used = int(_group(seen, indptr, indices, weights, size, patch_of_row))
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
