"""Vectors in a ``.npy`` file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, open_binary
from nomad_dask.sources.fingerprint import file_digest
from nomad_dask.sources.fsspec import PIECE, read_ranges
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape, native_dtype
from nomad_dask.storage.atomic import atomic_write, write_npy_header

_PIECES_AT_ONCE = 4


class _NpyRows(FileSource):
    """Rows of a ``.npy`` file, wherever it is.

    Parameters
    ----------
    path : path-like or str
    fingerprint : str, optional
        The fingerprint to give, when the file is a copy of another source.

    Raises
    ------
    InputError
        Not a ``.npy`` file, truncated, of Python objects, not two-dimensional, empty, or of a type
        that is not accepted.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str | None = None) -> None:
        self.name = str(path)
        self._place = absolute(os.fspath(path))
        self._given_fingerprint = fingerprint
        self._state = with_retries(lambda: file_stat(self._place), self.name)
        shape, self.fortran_order, self.stored_dtype, self.offset = with_retries(self._header, self.name)
        if self.stored_dtype.hasobject:
            raise InputError(
                f"{self.name} holds pickled Python objects (dtype object), which are never loaded: save it "
                "again from an array of numbers, as with np.save(path, np.stack(rows))."
            )
        self.dtype = native_dtype(self.stored_dtype, self.name)
        self.n_rows, self.n_dims = check_shape(shape, self.name)
        expected = self.offset + self.n_rows * self.n_dims * self.dtype.itemsize
        if self._state.size < expected:
            raise InputError(
                f"{self.name} is truncated: {expected} bytes expected for shape "
                f"({self.n_rows}, {self.n_dims}) of {self.dtype}, {self._state.size} found. Copy or write it again."
            )

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
        with open_binary(self._place, self._state.size) as f:
            return *_read_header(f, self.name), f.tell()

    def _states(self, start: int, stop: int) -> Iterable[tuple[str, FileStat]]:
        return [(self._place, self._state)]

    def _fingerprint(self) -> str:
        """Digest some of the file."""
        return file_digest(self._place, self._state.size)

    def _position(self, row: int, column: int = 0) -> int:
        """Return where an element is in the file."""
        place = column * self.n_rows + row if self.fortran_order else row * self.n_dims + column
        return self.offset + place * self.dtype.itemsize


class NpySource(_NpyRows):
    """Rows of a ``.npy`` file on a disk that the workers see.

    C-ordered files are read with plain file reads, not through a memory map, whose pages would count
    as the process's memory.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str | None = None) -> None:
        self.path = Path(path).absolute()
        super().__init__(path, fingerprint)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Read a range from the file; of a Fortran-ordered one through a memory map."""
        if self.fortran_order:
            columns = np.memmap(self.path, self.stored_dtype, "r", self.offset, (self.n_rows, self.n_dims), order="F")
            return np.array(columns[start:stop], dtype=self.dtype, order="C")
        rows = np.empty((stop - start, self.n_dims), self.stored_dtype)
        # Not np.fromfile, which takes a disk that fails for the end of the file.
        whole: Any = rows.reshape(-1).view(np.uint8)
        view = memoryview(whole)
        with self.path.open("rb", buffering=0) as f:
            f.seek(self._position(start))
            done = 0
            while done < len(view):
                came = f.readinto(view[done:])
                if not came:
                    raise OSError(f"{self.path} ends before row {stop}")
                done += came
        return rows.astype(self.dtype, copy=False)


class RemoteNpySource(_NpyRows):
    """Rows of a ``.npy`` file behind a URL, of which only the bytes of the rows asked for are fetched.

    Of a Fortran-ordered file they are one range for every column.
    """

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Fetch the bytes of a range of rows."""
        if stop <= start:
            return np.empty((0, self.n_dims), self.dtype)
        if self.fortran_order:
            columns = [(self._position(start, j), self._position(stop, j)) for j in range(self.n_dims)]
            found = [np.frombuffer(part, self.stored_dtype) for part in read_ranges(self._place, columns)]
            return np.ascontiguousarray(np.stack(found, axis=1), dtype=self.dtype)
        rows = np.empty((stop - start, self.n_dims), self.stored_dtype)
        view = rows.reshape(-1).view(np.uint8)
        first, last = self._position(start), self._position(stop)
        pieces = [(a, min(a + PIECE, last)) for a in range(first, last, PIECE)]
        # A few at once: they are held until they are copied.
        for i in range(0, len(pieces), _PIECES_AT_ONCE):
            some = pieces[i : i + _PIECES_AT_ONCE]
            for (a, b), content in zip(some, read_ranges(self._place, some), strict=True):
                view[a - first : b - first] = np.frombuffer(content, np.uint8)
        return rows.astype(self.dtype, copy=False)


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


def copy_to_npy(source: Source, path: Path, max_rows: int) -> NpySource:
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
    with atomic_write(path) as partial, partial.open("wb") as f:
        write_npy_header(f, source.dtype, (source.n_rows, source.n_dims))
        for _, rows in source.iterate(max_rows):
            rows.tofile(f)
    return NpySource(path, fingerprint)
