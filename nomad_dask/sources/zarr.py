"""Vectors in a zarr array."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, MissingInputError, NomadError
from nomad_dask.sources import fsspec
from nomad_dask.sources.base import PerThread
from nomad_dask.sources.files import FileSource, FileStat, absolute, file_stat, for_each, remote_file_stat
from nomad_dask.sources.fingerprint import digest_of, file_digest
from nomad_dask.sources.retry import is_storage_error, with_retries
from nomad_dask.sources.validation import check_shape, native_dtype


class ZarrSource(FileSource):
    """Rows of a zarr array, in a directory or behind a URL.

    Chunks are decoded as a whole. If a range ends inside a chunk, each thread keeps that chunk for the next range,
    so that sequential reads decode nothing twice.

    Parameters
    ----------
    path : path-like or URL

    Raises
    ------
    InputError
        zarr is not installed, the directory contains no array, or the array is not two-dimensional, is empty, or
        has a dtype that is not accepted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = str(path)
        self._location = absolute(os.fspath(path)).rstrip("/")
        self.locations = (self._location,)
        self._per_thread = PerThread()
        self._files = with_retries(lambda: _list_files(self._location), self.name)
        array = with_retries(self._array, self.name)
        self.dtype = native_dtype(array.dtype, self.name)
        self.n_rows, self.n_dims = check_shape(array.shape, self.name)
        # The shape of the data in one file, and the rows that are decoded at once.
        self._file_shape = tuple(int(size) for size in array.shards or array.chunks)
        self._chunk_rows = int(array.chunks[0])
        n_files = -(-self.n_rows // self._file_shape[0])
        self._stamps = np.array([self._stamp(i, self._files.get) for i in range(n_files)], np.uint32)

    def _array(self) -> Any:
        per_thread = self._per_thread.__dict__
        if "array" not in per_thread:
            per_thread["array"] = _open(self._location, self.name)
        return per_thread["array"]

    def _keys(self, file_row: int) -> list[str]:
        """Return the names of the files that hold a row of chunks (or shards)."""
        encode = self._array().metadata.encode_chunk_key
        return [encode((file_row, j)) for j in range(-(-self.n_dims // self._file_shape[1]))]

    def _stamp(self, file_row: int, stat: Callable[[str], FileStat | None]) -> int:
        """Return a checksum of the sizes and times of the files of a row of chunks; files may be missing."""
        return zlib.crc32(repr([stat(key) for key in self._keys(file_row)]).encode())

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Read the chunks that the range needs."""
        array, kept = self._array(), self._per_thread.__dict__.pop("kept", None)
        pieces = []
        if kept is not None and kept[0] <= start < kept[0] + len(kept[1]):
            end = min(stop, kept[0] + len(kept[1]))
            pieces.append(kept[1][start - kept[0] : end - kept[0]])
            start = end
        if start < stop:
            # Read to the end of the chunk, which is decoded anyway.
            end = min(-(-stop // self._chunk_rows) * self._chunk_rows, self.n_rows)
            rows = self._decode(array, start, end)
            pieces.append(rows[: stop - start])
            if end > stop:
                low = max(start, end - self._chunk_rows)
                kept = low, rows[low - start :].copy()
        if kept is not None and kept[0] + len(kept[1]) > stop:
            self._per_thread.__dict__["kept"] = kept
        if len(pieces) == 1:
            rows = np.ascontiguousarray(pieces[0], dtype=self.dtype).view()
            rows.flags.writeable = False  # it may be a view of the kept chunk
            return rows
        rows = np.concatenate(pieces) if pieces else np.empty((0, self.n_dims))
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def _decode(self, array: Any, start: int, stop: int) -> np.ndarray:
        """Decode the chunks of a range of rows.

        Raises
        ------
        InputError
            The message names the files of the first rows that cannot be decoded.
        """
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            # Compressors raise errors of many kinds.
            if is_storage_error(error):
                raise
            step = self._file_shape[0]
            for first in range(start // step * step, stop, step):
                last = min(first + step, self.n_rows)
                self._find_damage(array, first, last)
            raise InputError(
                f"{self.name}, rows {start} to {stop - 1}, cannot be decoded ({error}). Copy or write it again."
            ) from error

    def _find_damage(self, array: Any, first: int, last: int) -> None:
        """Decode one by one the files that hold rows `first` to `last`, and raise an error for one that is damaged."""
        width = self._file_shape[1]
        for j, key in enumerate(self._keys(first // self._file_shape[0])):
            try:
                array[first:last, j * width : (j + 1) * width]
            except Exception as error:
                if is_storage_error(error):
                    raise
                raise InputError(
                    f"{self.name}, rows {first} to {last - 1}, cannot be decoded: {self._location}/{key} is damaged "
                    f"({type(error).__name__}: {error}). Copy or write it again."
                ) from error

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the zarr shards, or of the chunks if the array has no shards."""
        return range(0, self.n_rows + self._file_shape[0], self._file_shape[0])

    def slice_rows(self, start: int, stop: int) -> ZarrSource:
        """Drop the list of files."""
        part = self._shallow()
        part._files = {}
        return part

    def _states(self, start: int, stop: int) -> list[tuple[str, FileStat]]:
        return []

    def _check_unchanged(self, start: int, stop: int) -> None:
        # zarr reads a chunk without a file as fill values, so a lost file would not be an error.
        def stat(key: str) -> FileStat | None:
            try:
                return file_stat(f"{self._location}/{key}")
            except MissingInputError:
                return None

        def check(i: int) -> None:
            if self._stamp(i, stat) != self._stamps[i]:
                raise InputError(
                    f"{self.name}: one of the files {', '.join(self._keys(i)[:4])} has changed or is gone since the "
                    "array was opened: do not change them while they are read, and start again. Copies on "
                    "several hosts must preserve modification times (cp -p, rsync -t)."
                )

        first, last = start // self._file_shape[0], -(-max(stop, start + 1) // self._file_shape[0])
        for_each(check, range(first, min(last, len(self._stamps))))

    def _fingerprint(self) -> str:
        """Digest the names and sizes of all files, and parts of the content of three files."""
        files = sorted(self._files)
        digested = sorted({files[0], files[len(files) // 2], files[-1]})
        digests = [file_digest(f"{self._location}/{name}", self._files[name].size) for name in digested]
        return digest_of(["zarr", *((name, self._files[name].size) for name in files), *digests])


def _list_files(location: str) -> dict[str, FileStat]:
    """Return the size and stamp of all files of an array, by name relative to the array."""
    if fsspec.is_url(location):
        objects = fsspec.find(location)
        return {url[len(location) + 1 :]: remote_file_stat(info, url) for url, info in objects.items()}
    files = [p for p in Path(location).rglob("*") if not p.is_dir()]
    # Also refuses pipes and devices, for which zarr would wait, and links that lead nowhere.
    return {p.relative_to(location).as_posix(): file_stat(str(p)) for p in files}


def _open(location: str, name: str) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{name} is a zarr array, which requires the package zarr: pip install 'nomad-dask[zarr]'"
        ) from error
    try:
        store: Any = location
        if fsspec.is_url(location):
            fsspec.filesystem(location)  # reports missing packages
            store = zarr.storage.FsspecStore.from_url(location, read_only=True)
        opened = zarr.open(store, mode="r")
    except Exception as error:
        # Damaged metadata raise errors of many kinds.
        if isinstance(error, NomadError) or is_storage_error(error):
            raise
        raise InputError(f"{name} cannot be read as a zarr array ({error}). Write it again.") from error
    if isinstance(opened, zarr.Group):
        arrays = ", ".join(sorted(opened.array_keys())) or "none"
        raise InputError(f"{name} is a group of zarr arrays ({arrays}): give the path of one array in it.")
    return opened
