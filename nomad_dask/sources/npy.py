"""Vectors in a ``.npy`` file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy_format

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, open_binary
from nomad_dask.sources.fingerprint import file_digest
from nomad_dask.sources.fsspec import REQUEST_BYTES, read_ranges
from nomad_dask.sources.paths import open_regular
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape, native_dtype
from nomad_dask.storage.atomic import atomic_write, write_npy_header

_CONCURRENT_REQUESTS = 4


class _NpyRows(FileSource):
    """Rows of a ``.npy`` file, on disk or behind a URL.

    Parameters
    ----------
    path : path-like or str
    fingerprint : str, optional
        Fingerprint to return instead of the file's own, if the file is a copy of another source.
    checksums : dict, optional
        Checksums of the other source when it was copied.

    Raises
    ------
    InputError
        The file is not a ``.npy`` file, is truncated, or contains Python objects; or the array is not
        two-dimensional, is empty, or has a dtype that is not accepted.
    """

    def __init__(
        self, path: str | os.PathLike[str], fingerprint: str | None = None, checksums: Mapping[int, int] | None = None
    ) -> None:
        self.name = str(path)
        self._copied_checksums = checksums or {}
        self._location = absolute(os.fspath(path))
        self._given_fingerprint = fingerprint
        self._stat = with_retries(lambda: file_stat(self._location), self.name)
        shape, self.fortran_order, self.stored_dtype, self.offset = with_retries(self._header, self.name)
        if self.stored_dtype.hasobject:
            raise InputError(
                f"{self.name} holds pickled Python objects (dtype object), which are never loaded: save it "
                "again from an array of numbers, as with np.save(path, np.stack(rows))."
            )
        self.dtype = native_dtype(self.stored_dtype, self.name)
        self.n_rows, self.n_dims = check_shape(shape, self.name)
        expected = self.offset + self.n_rows * self.n_dims * self.dtype.itemsize
        if self._stat.size < expected:
            raise InputError(
                f"{self.name} is truncated: {expected} bytes expected for shape "
                f"({self.n_rows}, {self.n_dims}) of {self.dtype}, {self._stat.size} found. Copy or write it again."
            )

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
        with open_binary(self._location, self._stat.size) as f:
            return *_read_header(f, self.name), f.tell()

    def _states(self, start: int, stop: int) -> Iterable[tuple[str, FileStat]]:
        return [(self._location, self._stat)]

    def slice_rows(self, start: int, stop: int) -> Self:
        """Drop the checksums."""
        if not self._copied_checksums:
            return self
        part = self._shallow()
        part._copied_checksums = {}
        return part

    def checksums(self, start: int, stop: int) -> dict[int, int]:
        """Return those of the source that was copied, for all of its rows."""
        return dict(self._copied_checksums)

    def _fingerprint(self) -> str:
        """Digest parts of the file."""
        return file_digest(self._location, self._stat.size)

    def _position(self, row: int, column: int = 0) -> int:
        """Return the byte position of an element in the file."""
        index = column * self.n_rows + row if self.fortran_order else row * self.n_dims + column
        return self.offset + index * self.dtype.itemsize


class NpySource(_NpyRows):
    """Rows of a ``.npy`` file on a disk that all workers can read.

    C-ordered files are read with plain file reads, not through a memory map, whose pages would count as memory
    of the process.
    """

    def __init__(
        self, path: str | os.PathLike[str], fingerprint: str | None = None, checksums: Mapping[int, int] | None = None
    ) -> None:
        self.path = Path(path).absolute()
        super().__init__(path, fingerprint, checksums)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Read a range of rows; a Fortran-ordered file is read through a memory map."""
        if self.fortran_order:
            columns = np.memmap(self.path, self.stored_dtype, "r", self.offset, (self.n_rows, self.n_dims), order="F")
            return np.array(columns[start:stop], dtype=self.dtype, order="C")
        rows = np.empty((stop - start, self.n_dims), self.stored_dtype)
        # Not np.fromfile, which treats a disk error as the end of the file.
        row_bytes: Any = rows.reshape(-1).view(np.uint8)
        view = memoryview(row_bytes)
        with open_regular(self.path, buffering=0) as f:
            f.seek(self._position(start))
            done = 0
            while done < len(view):
                n_read = f.readinto(view[done:])  # type: ignore[attr-defined]
                if not n_read:
                    raise OSError(f"{self.path} ends before row {stop}")
                done += n_read
        return rows.astype(self.dtype, copy=False)


class RemoteNpySource(_NpyRows):
    """Rows of a ``.npy`` file behind a URL; only the bytes of the requested rows are fetched.

    In a Fortran-ordered file, these are one range per column.
    """

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Fetch the bytes of a range of rows."""
        if stop <= start:
            return np.empty((0, self.n_dims), self.dtype)
        if self.fortran_order:
            columns = [(self._position(start, j), self._position(stop, j)) for j in range(self.n_dims)]
            parts = [np.frombuffer(part, self.stored_dtype) for part in read_ranges(self._location, columns)]
            return np.ascontiguousarray(np.stack(parts, axis=1), dtype=self.dtype)
        rows = np.empty((stop - start, self.n_dims), self.stored_dtype)
        view = rows.reshape(-1).view(np.uint8)
        first, last = self._position(start), self._position(stop)
        ranges = [(a, min(a + REQUEST_BYTES, last)) for a in range(first, last, REQUEST_BYTES)]
        # A few at a time, as their contents are in memory until they are copied.
        for i in range(0, len(ranges), _CONCURRENT_REQUESTS):
            batch = ranges[i : i + _CONCURRENT_REQUESTS]
            for (a, b), content in zip(batch, read_ranges(self._location, batch), strict=True):
                view[a - first : b - first] = np.frombuffer(content, np.uint8)
        return rows.astype(self.dtype, copy=False)


def _read_header(f: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a ``.npy`` file: shape, Fortran order, dtype."""
    # Version 3 is only for structured arrays with Unicode field names.
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
    """Copy a source to a ``.npy`` file atomically, block by block.

    Parameters
    ----------
    source : Source
    path : Path
        File to write; an existing file is replaced.
    max_rows : int
        Rows read at once.

    Returns
    -------
    NpySource
        Source of the file, with the fingerprint of the original. It has no columns; read them from `source`.
    """
    fingerprint = source.fingerprint()
    with atomic_write(path) as partial, partial.open("wb") as f:
        write_npy_header(f, source.dtype, (source.n_rows, source.n_dims))
        for _, rows in source.iterate(max_rows):
            rows.tofile(f)
    return NpySource(path, fingerprint, source.checksums(0, source.n_rows))
