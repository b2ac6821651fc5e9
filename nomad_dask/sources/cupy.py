"""Vectors in a CuPy array."""

from __future__ import annotations

from typing import Any

from nomad_dask.sources.device import DeviceSource, contiguous
from nomad_dask.sources.validation import check_shape, native_dtype


class CupySource(DeviceSource):
    """Rows of a CuPy array. Blocks of a C-ordered array are views; blocks of other arrays are copies.

    Parameters
    ----------
    array : cupy.ndarray (n_rows, n_dims)

    Raises
    ------
    InputError
        The array is not two-dimensional, is empty, or has a dtype that is not accepted.
    """

    def __init__(self, array: Any, name: str = "the CuPy array") -> None:
        self.name = name
        self._array = array
        self.n_rows, self.n_dims = check_shape(array.shape, name)
        self.dtype = native_dtype(array.dtype, name)

    def read_device(self, start: int, stop: int) -> Any:
        """Return a view of a C-ordered array, else a copy."""
        return contiguous(self._array[start:stop].astype(self.dtype, copy=False))
