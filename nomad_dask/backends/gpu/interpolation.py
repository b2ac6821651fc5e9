"""Positions of rows between those of their nearest anchors, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.anchors import SearchedCells, cells_to_search
from nomad_dask.backends.cell_index import expand_ranges, split_ranges
from nomad_dask.backends.data import Anchors
from nomad_dask.backends.gpu.nearest_cells import nearest_cells
from nomad_dask.backends.gpu.row_stream import upload_blocks, upload_rows
from nomad_dask.backends.gpu.runtime import BLOCK, Runtime
from nomad_dask.backends.row_reader import ShardVectors

PIECE_ROWS = 64
"""Largest number of rows of a cell for which a block of threads searches; as in the kernel."""
_BLOCK_BYTES = 1 << 28
# The vectors of the anchors stay on the device if they take at most this share of its free memory.
_HELD_SHARE = 0.5


@dataclass(frozen=True)
class _DeviceAnchors:
    """Anchors on the device, sorted by cell.

    Attributes
    ----------
    starts : array of int32 (n_cells,)
        Of the anchors of each cell that is searched.
    vectors, positions : array of float32 (n, n_dims), (n, dim)
    """

    starts: Any
    vectors: Any
    positions: Any


class _AnchorReader:
    """Brings anchors to the device: all of them once if they fit, else those of the cells that are searched.

    Parameters
    ----------
    vectors : ShardVectors
    anchors : Anchors
    offsets : ndarray of int64 (n_cells + 1,)
        The anchors of cell c are ``offsets[c]`` to ``offsets[c + 1]``.
    runtime : Runtime
    """

    def __init__(self, vectors: ShardVectors, anchors: Anchors, offsets: np.ndarray, runtime: Runtime) -> None:
        self._vectors, self._anchors, self._offsets, self._runtime = vectors, anchors, offsets, runtime
        self._held: _DeviceAnchors | None = None
        if 4 * len(anchors.rows) * vectors.n_dims <= _HELD_SHARE * runtime.free_bytes():
            self._held = self._read(np.arange(len(offsets) - 1))

    def load(self, cells: np.ndarray) -> _DeviceAnchors:
        """Return at least the anchors of some cells, ascending."""
        return self._held or self._read(cells)

    def _read(self, cells: np.ndarray) -> _DeviceAnchors:
        counts = np.diff(self._offsets)[cells]
        anchors = expand_ranges(self._offsets[cells], counts)
        starts = np.zeros(len(self._offsets) - 1, np.int32)
        starts[cells] = np.cumsum(counts) - counts
        vectors = upload_rows(self._vectors, self._anchors.rows[anchors], _BLOCK_BYTES, self._runtime)
        upload = self._runtime.upload
        return _DeviceAnchors(upload(starts), vectors, upload(self._anchors.positions[anchors]))


def interpolate(
    vectors: ShardVectors,
    cell_offsets: np.ndarray,
    centroids: np.ndarray,
    anchors: Anchors,
    runtime: Runtime,
    cache_bytes: int,
    on_progress: Callable[[int], None],
) -> np.ndarray:
    """Return positions (n_rows, dim) float32 of all rows; see `Backend.interpolate`.

    Rows pass through the device block by block, and the blocks that are read ahead take up to `cache_bytes` of host
    memory.
    """
    dim, n_rows = anchors.positions.shape[1], vectors.n_rows
    offsets = np.searchsorted(anchors.rows, cell_offsets)
    searched = _cells_to_search(centroids, np.diff(offsets), runtime)
    reader = _AnchorReader(vectors, anchors, offsets, runtime)
    searched_offsets, searched_cells = runtime.upload(searched.offsets), runtime.upload(searched.cells)
    counts = runtime.upload(np.diff(offsets).astype(np.int32))
    positions = runtime.xp.empty((n_rows, dim), np.float32)
    block_bytes = min(_BLOCK_BYTES, runtime.free_bytes() // 8)
    for start, stop, rows in upload_blocks(vectors, block_bytes, cache_bytes, runtime):
        cells, pieces = _pieces(cell_offsets, start, stop)
        held = reader.load(searched.of(int(cells[0]), int(cells[-1]) + 1))
        runtime.launch(
            "place_rows", dim, BLOCK * len(pieces), rows, runtime.upload(pieces), np.int64(len(pieces)),
            np.int32(vectors.n_dims), searched_offsets, searched_cells, held.starts, counts, held.vectors,
            held.positions, positions[start:stop],
        )  # fmt: skip
        on_progress(stop)
    return runtime.download(positions)


def _cells_to_search(centroids: np.ndarray, n_anchors: np.ndarray, runtime: Runtime) -> SearchedCells:
    """Return the cells in which the anchors nearest to the rows of each cell are searched for."""
    centers = runtime.upload(centroids - centroids.mean(axis=0))
    return cells_to_search(n_anchors, lambda cells, m: runtime.download(nearest_cells(centers, cells, m, runtime)))


def _pieces(cell_offsets: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells with the rows `start` to `stop`, and the rows of each in pieces, as the kernel takes them."""
    first, last = np.searchsorted(cell_offsets, start, side="right") - 1, np.searchsorted(cell_offsets, stop)
    edges = np.clip(cell_offsets[first : last + 1], start, stop) - start
    cells, rows, sizes = split_ranges(edges[:-1], np.diff(edges), PIECE_ROWS)
    return np.arange(first, last), np.stack([first + cells, rows, sizes], axis=1).astype(np.int32)
