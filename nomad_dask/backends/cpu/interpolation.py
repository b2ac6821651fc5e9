"""Positions of rows between those of their nearest anchors."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numba import njit

from nomad_dask.backends.anchors import MAX_NEAREST, SearchedCells, cells_to_search, mean_positions
from nomad_dask.backends.cell_index import expand_ranges
from nomad_dask.backends.cpu.cell_search_kernels import PROBE_ROWS, center_queries, center_targets, scan_block
from nomad_dask.backends.data import Anchors
from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import Threads

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 8192, 8 << 20
_ANCHORS_AT_ONCE = 512


def interpolate(
    vectors: ShardVectors,
    cell_offsets: np.ndarray,
    centroids: np.ndarray,
    anchors: Anchors,
    pool: Threads,
    cache_bytes: int,
    on_progress: Callable[[int], None],
) -> np.ndarray:
    """Return positions (n_rows, dim) float32 of all rows; see `Backend.interpolate`."""
    offsets = np.searchsorted(anchors.rows, cell_offsets)
    searched = cells_to_search(np.diff(offsets), lambda cells, m: nearest_cells(centroids, cells, m, pool.run))
    held = _load(vectors, anchors.rows, pool, cache_bytes)
    positions = np.empty((vectors.n_rows, anchors.positions.shape[1]), np.float32)
    lock = threading.Lock()
    done = 0

    def place(start: int, stop: int) -> None:
        nonlocal done
        first, last = np.searchsorted(cell_offsets, start, side="right") - 1, np.searchsorted(cell_offsets, stop)
        picked, picked_offsets = _pick_anchors(searched, int(first), int(last), offsets)
        targets = held
        if targets is None:
            needed, picked = np.unique(picked, return_inverse=True)
            targets = vectors.gather(anchors.rows[needed])
        distances = np.full((stop - start, min(MAX_NEAREST, len(anchors.rows))), np.inf, np.float32)
        nearest = np.zeros(distances.shape, np.int32)
        _find_nearest(
            vectors.read(start, stop), np.clip(cell_offsets[first : last + 1] - start, 0, stop - start),
            centroids[first:last], targets, picked.astype(np.int32), picked_offsets, (distances, nearest),
        )  # fmt: skip
        positions[start:stop] = mean_positions(anchors.positions, nearest if held is not None else needed[nearest])
        with lock:
            done += stop - start
            on_progress(done)

    pool.run(place, vectors.n_rows, max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (4 * vectors.n_dims))))
    return positions


def _load(vectors: ShardVectors, rows: np.ndarray, pool: Threads, cache_bytes: int) -> np.ndarray | None:
    """Return the vectors of the anchors, or None if they do not fit in memory."""
    if 4 * len(rows) * vectors.n_dims > cache_bytes:
        return None
    held = np.empty((len(rows), vectors.n_dims), np.float32)

    def load(start: int, stop: int) -> None:
        held[start:stop] = vectors.gather(rows[start:stop])

    pool.run(load, len(rows), _ANCHORS_AT_ONCE)
    return held


def _pick_anchors(searched: SearchedCells, first: int, last: int, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the anchors that are compared with the rows of each of some cells, and where those of each begin."""
    ranges = searched.offsets[first : last + 1]
    cells = searched.cells[ranges[0] : ranges[-1]]
    n_anchors = np.diff(offsets)[cells]
    ends = np.cumsum(n_anchors)[ranges[1:] - ranges[0] - 1]
    return expand_ranges(offsets[cells], n_anchors), np.append(0, ends)


@njit(nogil=True, cache=True)
def _find_nearest(rows, row_offsets, centers, targets, picked, picked_offsets, lists):  # type: ignore[no-untyped-def]
    """Fill ascending lists of the rows of consecutive cells with the nearest of the targets picked for each cell.

    Distances lack the squared norm of the row, which is the same for all targets.
    """
    distances, nearest = lists
    d = rows.shape[1]
    scaled = np.empty((PROBE_ROWS, d), np.float32)
    block = np.empty((PROBE_ROWS, d), np.float32)
    products = np.empty(PROBE_ROWS * PROBE_ROWS, np.float32)
    norms, no_norms = np.empty(PROBE_ROWS, np.float32), np.zeros(PROBE_ROWS, np.float32)
    no_rows = np.full(rows.shape[0], -1, np.int32)  # no row is a target itself
    for c in range(centers.shape[0]):
        for first in range(row_offsets[c], row_offsets[c + 1], PROBE_ROWS):
            queries = np.arange(first, min(first + PROBE_ROWS, row_offsets[c + 1]))
            m = queries.shape[0]
            center_queries(rows, queries, centers[c], np.float32(1), scaled, norms)
            for start in range(picked_offsets[c], picked_offsets[c + 1], PROBE_ROWS):
                compared = picked[start : min(start + PROBE_ROWS, picked_offsets[c + 1])]
                n = compared.shape[0]
                center_targets(targets, compared, centers[c], block, norms)
                of_block = products[: m * n].reshape(m, n)
                np.dot(scaled[:m], block[:n].T, of_block)
                scan_block(of_block, no_norms, norms, queries, no_rows, compared, distances, nearest)
