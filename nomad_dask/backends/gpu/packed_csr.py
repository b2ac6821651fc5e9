"""The graph in the format of the kernels: 8 bytes per edge, and an even number of edges per row.

A thread loads two edges of a row at once. A row with an odd number of edges is padded: its last target is repeated,
with weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime

# Edges that are packed at once: a packed copy of all would take more memory than the graph.
_PIECE_EDGES = 1 << 20

Values = Callable[[int, int], np.ndarray]
"""Returns the values float32 of edges `start` to `stop`."""


class PackedEdges(NamedTuple):
    """A CSR matrix in the format of the kernels, on the host or on the device.

    Attributes
    ----------
    ptr : array of int64 (rows + 1,)
        The edges of row i are ``ptr[i]`` to ``ptr[i + 1]``; both are even.
    edges : array of uint32 (ptr[-1], 2)
        Target, and the bits of the float32 weight.
    """

    ptr: Any
    edges: Any


def upload_packed(indptr: np.ndarray, indices: np.ndarray, weights: Values, runtime: Runtime) -> PackedEdges:
    """Return the packed edges of a CSR matrix on the device.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    indices : ndarray of int32 (e,)
        Targets: rows or patches.
    weights : callable
    runtime : Runtime
    """
    ptr = _packed_offsets(indptr)
    edges = runtime.xp.empty((int(ptr[-1]), 2), np.uint32)
    for rows, part in _pieces(indptr):
        packed = pack(_offsets_within(indptr, rows), indices[part], weights(part.start, part.stop))
        runtime.upload_into(edges[ptr[rows.start] : ptr[rows.stop]], packed.edges)
    return PackedEdges(runtime.upload(ptr), edges)


def upload_packed_values(indptr: np.ndarray, values: Values, runtime: Runtime) -> Any:
    """Return values of the edges, such as p(j|i), on the device in the order of `upload_packed`."""
    ptr = _packed_offsets(indptr)
    uploaded = runtime.xp.empty(int(ptr[-1]), np.float32)
    for rows, part in _pieces(indptr):
        packed = pack_values(_offsets_within(indptr, rows), values(part.start, part.stop))
        runtime.upload_into(uploaded[ptr[rows.start] : ptr[rows.stop]], packed)
    return uploaded


def _pieces(indptr: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Yield rows, and their edges: at least one row, and no more edges than that has or `_PIECE_EDGES`."""
    first = 0
    while first < len(indptr) - 1:
        last = int(np.searchsorted(indptr, indptr[first] + _PIECE_EDGES, "right")) - 1
        last = max(last, first + 1)
        yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))
        first = last


def _offsets_within(indptr: np.ndarray, rows: slice) -> np.ndarray:
    return np.asarray(indptr[rows.start : rows.stop + 1] - indptr[rows.start])


def pack(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> PackedEdges:
    """Return the packed edges of a CSR matrix.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    indices : ndarray of int32 (e,)
        Targets: rows or patches.
    weights : ndarray of float32 (e,)
    """
    ptr, real, padding = _packed_positions(indptr)
    edges = np.empty((ptr[-1], 2), np.uint32)
    edges[real, 0] = indices
    edges[real, 1] = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    edges[padding, 0] = edges[padding - 1, 0]
    edges[padding, 1] = 0
    return PackedEdges(ptr, edges)


def pack_values(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values of the edges, such as p(j|i), in the order of `pack`.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    values : ndarray of float32 (e,)

    Returns
    -------
    ndarray of float32 (ptr[-1],)
        0 for padding.
    """
    ptr, real, padding = _packed_positions(indptr)
    packed = np.empty(ptr[-1], np.float32)
    packed[real] = values
    packed[padding] = 0
    return packed


def _packed_positions(indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `ptr`, a mask (ptr[-1],) of the packed edges that are not padding, and the positions of the padding."""
    ptr = _packed_offsets(indptr)
    padding = ptr[1:][np.diff(indptr) % 2 == 1] - 1
    real = np.ones(ptr[-1], np.bool_)
    real[padding] = False
    return ptr, real, padding


def _packed_offsets(indptr: np.ndarray) -> np.ndarray:
    counts = np.diff(indptr)
    ptr = np.zeros(len(indptr), np.int64)
    np.cumsum(counts + counts % 2, out=ptr[1:])
    return ptr
