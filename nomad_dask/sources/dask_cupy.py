"""Vectors in a Dask array of CuPy chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from nomad_dask.sources.dask import DaskArraySource
from nomad_dask.sources.device import DeviceSource, contiguous, host_array


class DaskCupySource(DaskArraySource, DeviceSource):
    """Rows of a Dask array whose chunks are on GPUs, computed when they are read.

    Workers compute a chunk on their own GPU and leave it there. For `read`, the chunk is downloaded by the worker
    that computed it.

    Parameters
    ----------
    array : dask.array.Array (n_rows, n_dims)

    Raises
    ------
    InputError
        The array is not two-dimensional, is empty, or has a dtype that is not accepted.
    """

    def __init__(self, array: Any, name: str = "the Dask array") -> None:
        super().__init__(array, name)
        host_chunks = self._collection.map_blocks(host_array, dtype=self.dtype, meta=np.empty((0, 0), self.dtype))
        self._host_source = DaskArraySource(host_chunks, name)

    def slice_rows(self, start: int, stop: int) -> Self:
        """Keep only the parts of both graphs that the rows need."""
        part = super().slice_rows(start, stop)
        if part is not self:
            part._host_source = self._host_source.slice_rows(start, stop)
        return part

    def _rows(self, value: Any, i: int) -> Any:
        return contiguous(value.astype(self.dtype, copy=False))

    def checksums(self, start: int, stop: int) -> dict[int, int]:
        """Return those of the chunks computed on the device or for the host."""
        return super().checksums(start, stop) | self._host_source.checksums(start, stop)

    def with_checksums(self, checksums: Mapping[int, int]) -> Self:
        """Return a source that compares both kinds of chunks."""
        expecting = super().with_checksums(checksums)
        expecting._host_source = self._host_source.with_checksums(checksums)
        return expecting

    def read(self, start: int, stop: int) -> np.ndarray:
        """Compute the chunks that the range needs, and download them."""
        return self._host_source.read(start, stop)

    def read_device(self, start: int, stop: int) -> Any:
        """Compute the chunks that the range needs."""
        pieces = [self._compute(i)[a - low : b - low] for i, low, a, b in self._pieces(start, stop)]
        pieces = pieces or [self._compute(0)[:0]]
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return contiguous(rows)
