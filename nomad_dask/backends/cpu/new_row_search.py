"""The nearest stored rows of new rows, by exact distances in the cells around each."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numba import njit

from nomad_dask.backends.cpu.cell_search_kernels import FAST_MATH, SLACK
from nomad_dask.backends.data import NewRows, StoredRows
from nomad_dask.utils.threads import Threads


def search_new_rows(
    stored: StoredRows, new: NewRows, k: int, pool: Threads, on_progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and squared distances (n, k) of the nearest stored rows; see `Backend.search_new_rows`."""
    n = len(new.vectors)
    ids, distances = np.full((n, k), -1, np.int64), np.full((n, k), np.inf, np.float32)
    lock = threading.Lock()
    n_done = 0

    def search(start: int, stop: int) -> None:
        nonlocal n_done
        for group in range(start, stop):
            rows = slice(new.offsets[group], new.offsets[group + 1])
            for cell in new.probed_cells[group]:
                first, last = stored.cell_offsets[cell], stored.cell_offsets[cell + 1]
                queries, targets = new.vectors[rows], stored.vectors.read(first, last)
                bounds = _lower_bounds(queries, targets, stored.centroids[cell])
                _insert_nearest(queries, targets, bounds, first, ids[rows], distances[rows])
        with lock:
            n_done += int(new.offsets[stop] - new.offsets[start])
            on_progress(n_done)

    pool.run(search, len(new.probed_cells), 1)
    return ids, distances


def _lower_bounds(queries: np.ndarray, targets: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return numbers (n_queries, n_targets) that no squared distance is below, by one product of matrices."""
    a, b = queries - center, targets - center
    squares = [np.einsum("ij,ij->i", rows, rows) * (1 - SLACK) for rows in (a, b)]
    bounds = a @ b.T
    bounds *= -2
    bounds += squares[0][:, None]
    bounds += squares[1]
    return np.asarray(bounds)


@njit(nogil=True, cache=True, fastmath=FAST_MATH)
def _squared_distance(rows, i, targets, t):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(rows.shape[1]):
        difference = rows[i, j] - targets[t, j]
        total += difference * difference
    return total


@njit(nogil=True, cache=True)
def _insert_nearest(rows, targets, bounds, first_id, ids, distances):  # type: ignore[no-untyped-def]
    """Insert targets, which have consecutive ids, into the lists of all rows; of equal distances the lower id first.

    Every distance is summed alike, so the lists depend neither on the other rows nor on the order of the cells; how the
    bounds are rounded decides only which distances are computed.
    """
    last = ids.shape[1] - 1
    for i in range(rows.shape[0]):
        near, near_ids = distances[i], ids[i]
        for t in range(targets.shape[0]):
            if bounds[i, t] > near[last]:
                continue
            total, id_ = _squared_distance(rows, i, targets, t), first_id + t
            if total > near[last] or (total == near[last] and id_ > near_ids[last] >= 0):
                continue
            place = last
            while place > 0 and (near[place - 1] > total or (near[place - 1] == total and near_ids[place - 1] > id_)):
                near[place], near_ids[place] = near[place - 1], near_ids[place - 1]
                place -= 1
            near[place], near_ids[place] = total, id_
