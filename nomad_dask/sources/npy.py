"""Vectors in a ``.npy`` file."""

from __future__ import annotations

import os
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source
from nomad_dask.sources.digest import file_digest
from nomad_dask.sources.rows import check_shape, native_dtype
from nomad_dask.workspace import whole_file


class NpySource(Source):
    """Rows of a ``.npy`` file.

    C-ordered files are read with plain file reads, not through a memory map, whose pages would count
    as the process's memory.

    Parameters
    ----------
    path : path-like
    fingerprint : str, optional
        The fingerprint to give, when the file is a copy of another source.

    Raises
    ------
    InputError
        Not a ``.npy`` file, truncated, of Python objects, not two-dimensional, empty, or of a type
        that is not accepted.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str | None = None) -> None:
        self.path = Path(path).absolute()
        self.name = str(path)
        self._fingerprint = fingerprint
        with self.path.open("rb") as f:
            shape, self.fortran_order, self.stored_dtype = _read_header(f, self.name)
            self.offset = f.tell()
        if self.stored_dtype.hasobject:
            raise InputError(
                f"{self.name} holds pickled Python objects (dtype object), which are never loaded: save it "
                "again from an array of numbers, as with np.save(path, np.stack(rows))."
            )
        self.dtype = native_dtype(self.stored_dtype, self.name)
        self.n_rows, self.n_dims = check_shape(shape, self.name)
        self._check_size()

    def _check_size(self) -> None:
        expected = self.offset + self.n_rows * self.n_dims * self.dtype.itemsize
        found = self.path.stat().st_size
        if found < expected:
            raise InputError(
                f"{self.name} is truncated: {expected} bytes expected for shape "
                f"({self.n_rows}, {self.n_dims}) of {self.dtype}, {found} found. Copy or write it again."
            )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read a range from the file; of a Fortran-ordered one through a memory map."""
        if self.fortran_order:
            columns = np.memmap(self.path, self.stored_dtype, "r", self.offset, (self.n_rows, self.n_dims), order="F")
            return np.array(columns[start:stop], dtype=self.dtype, order="C")
        flat = np.fromfile(
            self.path,
            self.stored_dtype,
            count=(stop - start) * self.n_dims,
            offset=self.offset + start * self.n_dims * self.dtype.itemsize,
        )
        if flat.size != (stop - start) * self.n_dims:
            self._check_size()  # it has shrunk since it was opened
        return flat.reshape(stop - start, self.n_dims).astype(self.dtype, copy=False)

    def fingerprint(self) -> str:
        """Digest some of the file, or give what was given."""
        return self._fingerprint or file_digest(self.path)


def _read_header(f: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a ``.npy`` file: shape, Fortran order, dtype."""
    # Version 3 exists for field names in Unicode only, and there are no fields here.
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        version = npy_format.read_magic(f)
        if version not in readers:
            raise ValueError(f"format version {version}")
        shape, fortran_order, dtype = readers[version](f)
    except (ValueError, TypeError, SyntaxError, TokenError) as error:
        f.seek(0)
        hint = "It is an .npz archive: save the array alone" if f.read(2) == b"PK" else "Save the array again"
        raise InputError(f"{name} is not a .npy file of an array ({error}). {hint} with np.save.") from error
    return shape, fortran_order, dtype


def staged(source: Source, path: Path, max_rows: int) -> NpySource:
    """Copy a source into a ``.npy`` file, block by block, whole or not at all.

    Parameters
    ----------
    source : Source
    path : Path
        Written or replaced.
    max_rows : int
        Rows read at once.

    Returns
    -------
    NpySource
        Over the file, with the fingerprint of the original. It has no columns: they stay with `source`.
    """
    fingerprint = source.fingerprint()
    header = {
        "descr": npy_format.dtype_to_descr(source.dtype),
        "fortran_order": False,
        "shape": (source.n_rows, source.n_dims),
    }
    with whole_file(path) as partial, partial.open("wb") as f:
        npy_format.write_array_header_1_0(f, header)
        for _, rows in source.iterate(max_rows):
            rows.tofile(f)
    return NpySource(path, fingerprint)
