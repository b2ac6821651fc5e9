"""Vectors in a zarr array."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import fsspec
from nomad_dask.sources.base import PerThread
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, for_each, remote_file_stat
from nomad_dask.sources.fingerprint import digest_of, file_digest
from nomad_dask.sources.retry import with_retries
from nomad_dask.sources.validation import check_shape, native_dtype


class ZarrSource(FileSource):
    """Rows of a zarr array, in a directory or behind a URL.

    A chunk is decoded whole. The last chunk that a range has cut is kept by each thread for the next range,
    so that reading on decodes nothing twice.

    Parameters
    ----------
    path : path-like or URL

    Raises
    ------
    InputError
        zarr is not installed, the directory holds no array, or the array is not two-dimensional, empty,
        or of a type that is not accepted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = str(path)
        self._place = absolute(os.fspath(path)).rstrip("/")
        self._opened = PerThread()
        array = with_retries(self._array, self.name)
        self.dtype = native_dtype(array.dtype, self.name)
        self.n_rows, self.n_dims = check_shape(array.shape, self.name)
        # What is written in one file, and what is decoded at once.
        self._file_shape = tuple(int(size) for size in array.shards or array.chunks)
        self._step = int(array.chunks[0])
        self._listed = with_retries(lambda: _list_files(self._place), self.name)
        n_files = -(-self.n_rows // self._file_shape[0])
        self._marks = np.array([self._mark(i, self._listed.get) for i in range(n_files)], np.uint32)

    def _array(self) -> Any:
        opened = self._opened.__dict__
        if "array" not in opened:
            opened["array"] = _open(self._place, self.name)
        return opened["array"]

    def _keys(self, row_of_files: int) -> list[str]:
        """Return the names of the files that hold a row of chunks (or shards)."""
        encode = self._array().metadata.encode_chunk_key
        return [encode((row_of_files, j)) for j in range(-(-self.n_dims // self._file_shape[1]))]

    def _mark(self, row_of_files: int, look: Callable[[str], FileStat | None]) -> int:
        """Return a number that tells sizes and times of the files of a row of chunks; one may not be there."""
        return zlib.crc32(repr([look(key) for key in self._keys(row_of_files)]).encode())

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Read the chunks that the range needs."""
        array, kept = self._array(), self._opened.__dict__.pop("kept", None)
        pieces = []
        if kept is not None and kept[0] <= start < kept[0] + len(kept[1]):
            end = min(stop, kept[0] + len(kept[1]))
            pieces.append(kept[1][start - kept[0] : end - kept[0]])
            start = end
        if start < stop:
            # To the end of the chunk, which is decoded anyway.
            end = min(-(-stop // self._step) * self._step, self.n_rows)
            rows = np.asarray(array[start:end])
            pieces.append(rows[: stop - start])
            if end > stop:
                low = max(start, end - self._step)
                kept = low, rows[low - start :].copy()
        if kept is not None and kept[0] + len(kept[1]) > stop:
            self._opened.__dict__["kept"] = kept
        if len(pieces) == 1:
            found = np.ascontiguousarray(pieces[0], dtype=self.dtype).view()
            found.flags.writeable = False  # it may be the chunk that is kept
            return found
        whole = np.concatenate(pieces) if pieces else np.empty((0, self.n_dims))
        return np.ascontiguousarray(whole, dtype=self.dtype)

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the shards, or of the chunks where there are none."""
        return range(0, self.n_rows + self._file_shape[0], self._file_shape[0])

    def slice_rows(self, start: int, stop: int) -> ZarrSource:
        """Leave out the list of files."""
        part = self._shallow()
        part._listed = {}
        return part

    def _states(self, start: int, stop: int) -> list[tuple[str, FileStat]]:
        return []

    def _check_unchanged(self, start: int, stop: int) -> None:
        # A chunk without a file is one of fill values to zarr: one that is gone would be taken for that.
        def look(key: str) -> FileStat | None:
            try:
                return file_stat(f"{self._place}/{key}")
            except MissingInputError:
                return None

        def check(i: int) -> None:
            if self._mark(i, look) != self._marks[i]:
                raise InputError(
                    f"{self.name}: one of the files {', '.join(self._keys(i)[:4])} has changed or is gone since the "
                    "array was opened: leave them as they are while they are read, and start again. Copies on "
                    "several hosts have to keep their times (cp -p, rsync -t)."
                )

        first, last = start // self._file_shape[0], -(-max(stop, start + 1) // self._file_shape[0])
        for_each(check, range(first, min(last, len(self._marks))))

    def _fingerprint(self) -> str:
        """Digest the names and sizes of all files and some of three of them."""
        files = sorted(self._listed)
        some = sorted({files[0], files[len(files) // 2], files[-1]})
        digests = [file_digest(f"{self._place}/{name}", self._listed[name].size) for name in some]
        return digest_of(["zarr", *((name, self._listed[name].size) for name in files), *digests])


def _list_files(place: str) -> dict[str, FileStat]:
    """Return all files of an array by their names in it."""
    if fsspec.is_url(place):
        found = fsspec.find(place)
        return {url[len(place) + 1 :]: remote_file_stat(about, url) for url, about in found.items()}
    files = [p for p in Path(place).rglob("*") if p.is_file()]
    return {p.relative_to(place).as_posix(): file_stat(str(p)) for p in files}


def _open(place: str, name: str) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"{name} is of zarr, which needs the package zarr: pip install nomad-dask[zarr]") from error
    try:
        store: Any = place
        if fsspec.is_url(place):
            fsspec.filesystem(place)  # tells what is not installed
            store = zarr.storage.FsspecStore.from_url(place, read_only=True)
        found = zarr.open(store, mode="r")
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, (InputError, PermissionError)):
            raise
        raise InputError(f"{name} cannot be read as a zarr array ({error}). Write it again.") from error
    if isinstance(found, zarr.Group):
        arrays = ", ".join(sorted(found.array_keys())) or "none"
        raise InputError(f"{name} is a group of zarr arrays ({arrays}): give the path of one array in it.")
    return found
