"""What sources in files share: failed reads are retried, and files that change are detected."""

from __future__ import annotations

import copy
import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar, cast

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import fsspec
from nomad_dask.sources.base import Source, describe_rows
from nomad_dask.sources.paths import check_regular, local_path, open_regular
from nomad_dask.sources.retry import translate_io_errors, with_retries

# Files that are examined concurrently, as most of the time is spent waiting.
_MAX_THREADS = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


class FileStat(NamedTuple):
    """Size and modification stamp of a file, to detect changes after it was opened.

    Attributes
    ----------
    size : int
        In bytes.
    stamp : str
        Time of the last modification, or the tag assigned by the storage.
    """

    size: int
    stamp: str


def absolute(path: str | Path) -> str:
    """Return a path that every worker can open: absolute, or the URL in the canonical form of its storage."""
    if not fsspec.is_url(path):
        return str(Path(path).absolute())
    fs, inner = fsspec.filesystem(str(path))
    return str(fs.unstrip_protocol(inner))


def file_stat(path: str) -> FileStat:
    """Return the size and stamp of a file.

    Raises
    ------
    MissingInputError, InputError
        The file does not exist, access is denied, or it is not a regular file.
    """
    if fsspec.is_url(path):
        return remote_file_stat(fsspec.info(path), path)
    with translate_io_errors(path):
        stat = Path(path).stat()
    check_regular(path, stat)
    return FileStat(stat.st_size, str(stat.st_mtime_ns))


def remote_file_stat(info: dict[str, Any], url: str) -> FileStat:
    """Return the size and stamp of an object from the information that its storage returned."""
    return FileStat(fsspec.size(info, url), fsspec.stamp(info))


def open_binary(path: str, size: int) -> BinaryIO:
    """Open a file for buffered reading; an object behind a URL, of `size` bytes, is read by ranges."""
    if fsspec.is_url(path):
        return cast("BinaryIO", io.BufferedReader(fsspec.RangeFile(path, size), 1 << 16))
    return open_regular(path)


def for_each(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Return ``function(item)`` for all items in order, computed concurrently if there are many."""
    if len(items) < 4:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_MAX_THREADS) as pool:
        return list(pool.map(function, items))


class FileSource(Source):
    """Vectors in files, on disk or behind URLs, which must not change while they are read.

    After every read, the size and stamp of its files are compared with those at opening; a difference is an error
    that names the file. Failed reads are retried, see `nomad_dask.sources.retry`.

    Attributes
    ----------
    locations : tuple of str
        The directories and patterns that were given, of whose files the source consists.
    """

    locations: tuple[str, ...] = ()
    _given_fingerprint: str | None = None
    _computed_fingerprint: str | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> Any:
        """Read rows, without the check for changes."""

    @abstractmethod
    def _states(self, start: int, stop: int) -> Iterable[tuple[str, FileStat]]:
        """Return the files that hold the rows, with their size and stamp at opening."""

    @abstractmethod
    def _fingerprint(self) -> str:
        """Compute the fingerprint."""

    def read(self, start: int, stop: int) -> Any:
        """Read a range of rows.

        Raises
        ------
        InputError
            A file has changed, or cannot be read after several attempts.
        MissingInputError
            A file is gone.
        """
        return self._read_unchanged(lambda: self._read(start, stop), start, stop)

    def fingerprint(self) -> str:
        """Return the digest, computed once in each process."""
        if self._given_fingerprint is not None:
            return self._given_fingerprint
        if self._computed_fingerprint is None:
            self._computed_fingerprint = with_retries(self._fingerprint, self.name)
        return self._computed_fingerprint

    def local_paths(self) -> list[str]:
        """Return its files, and the directories and patterns that were given."""
        paths = [path for path, _ in self._states(0, self.n_rows)]
        return [
            local_path(path) if fsspec.is_url(path) else path
            for path in [*self.locations, *paths]
            if not fsspec.is_url(path) or "file://" in path
        ]

    def __getstate__(self) -> dict[str, Any]:
        # Another process computes it from the files that it sees.
        return {name: value for name, value in self.__dict__.items() if name != "_computed_fingerprint"}

    def check_unchanged(self) -> None:
        """Check that this process sees all files unchanged since they were opened.

        Raises
        ------
        InputError
            A file has changed, or access is denied.
        MissingInputError
            A file does not exist.
        """
        self._check_unchanged(0, self.n_rows)

    def _read_unchanged(self, read: Callable[[], _R], start: int, stop: int) -> _R:
        """Call `read` with retries, and check afterwards that the files of the rows have not changed."""

        def read_once() -> _R:
            try:
                result = read()
            except Exception:
                self._check_unchanged(start, stop)  # a change explains the failure better
                raise
            self._check_unchanged(start, stop)
            return result

        return with_retries(read_once, describe_rows(self, start, stop))

    def _check_unchanged(self, start: int, stop: int) -> None:
        def check(opened: tuple[str, FileStat]) -> None:
            path, before = opened
            try:
                now = file_stat(path)
            except MissingInputError as error:
                raise MissingInputError(
                    f"{path} is gone since it was opened: put it back, and check that every worker can see it."
                ) from error
            if now != before:
                raise InputError(
                    f"{path} has changed since it was opened ({before.size} bytes, {before.stamp} then; {now.size} "
                    f"bytes, {now.stamp} now): do not change it while it is read, and start again. Copies on "
                    "several hosts must preserve modification times (cp -p, rsync -t)."
                )

        for_each(check, list(self._states(start, stop)))

    def _shallow(self) -> Self:
        return copy.copy(self)
