"""The graph in the format of the kernels: 8 bytes per edge, and an even number of edges per row.

A thread loads two edges of a row at once. A row with an odd number of edges is padded: its last target is repeated,
with weight 0. Edges are uploaded as they are stored, and packed on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime

# Edges that are uploaded and packed at once: they are on the device twice.
_PIECE_EDGES = 1 << 24


class PackedEdges(NamedTuple):
    """A CSR matrix in the format of the kernels, on the device.

    Attributes
    ----------
    ptr : array of int64 (rows + 1,)
        The edges of row i are ``ptr[i]`` to ``ptr[i + 1]``; both are even.
    edges : array of uint32 (ptr[-1], 2)
        Target, and the bits of the float32 weight.
    """

    ptr: Any
    edges: Any


class EdgePacker:
    """Packs the edges of a CSR matrix on the device, and values of theirs in the same order.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    runtime : Runtime
    """

    def __init__(self, indptr: np.ndarray, runtime: Runtime) -> None:
        self._indptr, self._runtime, xp = indptr, runtime, runtime.xp
        self._offsets = runtime.upload(indptr)
        counts = self._offsets[1:] - self._offsets[:-1]
        self._ptr = xp.zeros(len(indptr), np.int64)
        self._ptr[1:] = xp.cumsum(counts + counts % 2)
        self._n_packed = int(runtime.download(self._ptr[-1:])[0])

    def edges(self, indices: np.ndarray, weights: np.ndarray, codes: np.ndarray | None = None) -> PackedEdges:
        """Return the packed edges.

        Parameters
        ----------
        indices : ndarray of int32 (e,)
            Targets: rows or patches.
        weights : ndarray of float32 (e,) or (n_levels,)
            Of each edge, or of each code.
        codes : ndarray of uint8 (e,), optional
            The weight of edge e is ``weights[codes[e]]``.
        """
        packed = self._runtime.xp.empty((self._n_packed, 2), np.uint32)
        levels = None if codes is None else self._upload(weights, np.float32)
        for rows, part in self._pieces():
            targets = self._upload(indices[part], np.int32)
            of_part = None if codes is None else self._upload(codes[part], np.uint8)
            values = self._upload(weights[part], np.float32) if levels is None else levels
            self._launch("pack_edges", rows, part, targets, of_part, values, packed)
        return PackedEdges(self._ptr, packed)

    def values(self, values: np.ndarray) -> Any:
        """Return values (e,) of the edges, such as p(j|i), in the order of the packed edges; 0 for padding."""
        packed = self._runtime.xp.empty(self._n_packed, np.float32)
        for rows, part in self._pieces():
            self._launch("pack_values", rows, part, self._upload(values[part], np.float32), packed)
        return packed

    def _launch(self, kernel: str, rows: slice, part: slice, *arrays: Any) -> None:
        """Pack the edges `part`, which are those of `rows`."""
        n, ends = rows.stop - rows.start, slice(rows.start, rows.stop + 1)
        self._runtime.launch(
            kernel, 2, 32 * n, self._offsets[ends], self._ptr[ends], np.int64(n), np.int64(part.start), *arrays
        )  # fmt: skip

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Yield rows, and their edges: at least one row, and no more edges than that has or `_PIECE_EDGES`."""
        indptr, first = self._indptr, 0
        while first < len(indptr) - 1:
            last = int(np.searchsorted(indptr, indptr[first] + _PIECE_EDGES, "right")) - 1
            last = max(last, first + 1)
            yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))
            first = last

    def _upload(self, array: np.ndarray, dtype: Any) -> Any:
        """Return a copy on the device, without waiting for earlier work."""
        target = self._runtime.xp.empty(array.shape, dtype)
        self._runtime.upload_into(target, np.ascontiguousarray(array, dtype))
        return target
