"""Vectors in an array in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import sampled_digest
from nomad_dask.sources.npy import NpySource
from nomad_dask.sources.validation import ACCEPTED, check_shape, native_dtype


class ArraySource(Source):
    """Rows of a NumPy array, read as views if its memory layout allows.

    Parameters
    ----------
    array : ndarray (n_rows, n_dims)
        Not copied.

    Raises
    ------
    InputError
        The array is not two-dimensional, is empty, has masked values, or has a dtype that is not accepted.
    """

    shareable = False

    def __init__(self, array: np.ndarray, name: str = "the array") -> None:
        self.name = name
        if isinstance(array, np.ma.MaskedArray) and np.ma.getmaskarray(array).any():
            raise InputError(f"{name} has masked values: fill them in or remove their rows.")
        self._array = np.asarray(array)
        self.n_rows, self.n_dims = check_shape(self._array.shape, name)
        self.dtype = native_dtype(self._array.dtype, name)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a read-only view if dtype and memory layout allow, else a copy."""
        rows = np.ascontiguousarray(self._array[start:stop], dtype=self.dtype)
        if np.may_share_memory(rows, self._array):
            rows.flags.writeable = False  # a view of the user's data
        return rows

    def fingerprint(self) -> str:
        """Digest a sample of the rows."""
        return sampled_digest(self)

    def local_paths(self) -> list[str]:
        """Return the file that the array is mapped from, if it is."""
        array: Any = self._array
        while array is not None:
            if isinstance(array, np.memmap) and array.filename is not None:
                return [str(array.filename)]
            array = getattr(array, "base", None)
        return []


def open_array(x: Any, name: str | None = None) -> Source:
    """Open anything that NumPy converts to an array: arrays, objects with ``__array__``, lists of rows.

    A memory map of a whole ``.npy`` file is opened by its path, so that every worker can read it.
    """
    if isinstance(x, np.memmap):
        source = _mapped_file(x)
        if source is not None:
            return source
    name = name or f"the {type(x).__name__}"
    if hasattr(x, "__next__") or (not hasattr(x, "__array__") and isinstance(x, (dict, set, frozenset, bytes))):
        raise InputError(f"{name} is not an array of rows: give an array or a list of rows, as with np.stack(list(x)).")
    try:
        array = x if isinstance(x, np.ndarray) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is not an array of rows of one length ({error}): {ACCEPTED}, in two dimensions."
        ) from error
    return ArraySource(array, name)


def _mapped_file(x: np.memmap[Any, Any]) -> NpySource | None:
    """Return the ``.npy`` file that a memory map covers completely and in order, or None."""
    if x.filename is None or x.mode == "c":  # arrays computed from a memory map have no file name
        return None
    try:
        source = NpySource(Path(x.filename))
    except (InputError, FileNotFoundError):
        return None  # a memory map of a raw file
    # Views keep the name and offset of the file; only one with its shape and order covers it.
    covers_file = (
        (source.n_rows, source.n_dims) == x.shape
        and source.stored_dtype == x.dtype
        and source.offset == x.offset
        and x.flags["F_CONTIGUOUS" if source.fortran_order else "C_CONTIGUOUS"]
    )
    return source if covers_file else None
