"""What sources in files have in common: they read again what failed, and notice files that change."""

from __future__ import annotations

import copy
import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TypeVar, cast
from urllib.parse import unquote

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import fsspec
from nomad_dask.sources.base import Source, describe_rows
from nomad_dask.sources.retry import translate_io_errors, with_retries

# Files that are looked at together: what they cost is waiting.
_AT_ONCE = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


class FileStat(NamedTuple):
    """What tells whether a file is still the one that was opened.

    Attributes
    ----------
    size : int
        Bytes.
    stamp : str
        Time of the last change, or the tag that the storage gave it.
    """

    size: int
    stamp: str


def absolute(path: str | Path) -> str:
    """Return the path that every worker can open: absolute, or the URL as its storage spells it."""
    if not fsspec.is_url(path):
        return str(Path(path).absolute())
    fs, inner = fsspec.filesystem(str(path))
    return str(fs.unstrip_protocol(inner))


def local_path(url: str) -> str:
    """Return the path of a ``file://`` URL, with or without percent signs for special characters."""
    path = url.partition("://")[2]
    path = path.removeprefix("localhost") if path.startswith("localhost/") else path
    return path if Path(path).exists() else unquote(path)


def file_stat(path: str) -> FileStat:
    """Look at a file.

    Raises
    ------
    MissingInputError, InputError
        It does not exist, or may not be looked at.
    """
    if fsspec.is_url(path):
        return remote_file_stat(fsspec.info(path), path)
    with translate_io_errors(path):
        found = Path(path).stat()
    return FileStat(found.st_size, str(found.st_mtime_ns))


def remote_file_stat(found: dict[str, Any], url: str) -> FileStat:
    """Return the state in what a storage tells of an object."""
    return FileStat(fsspec.size(found, url), fsspec.stamp(found))


def open_binary(path: str, size: int) -> BinaryIO:
    """Open a file for reading, buffered; behind a URL one of `size` bytes by ranges."""
    if fsspec.is_url(path):
        return cast("BinaryIO", io.BufferedReader(fsspec.RangeFile(path, size), 1 << 16))
    return Path(path).open("rb")


def for_each(look: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Return ``look(item)`` for all items in order, several at once when there are many."""
    if len(items) < 4:
        return [look(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, items))


class FileSource(Source):
    """Vectors in files, on disk or behind URLs, which have to stay as they are while they are read.

    After every read its files are looked at again: those of another size or time than at the opening are an
    error that names them. What failed is read again, see `nomad_dask.sources.retry`.
    """

    _given_fingerprint: str | None = None
    _made_fingerprint: str | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> Any:
        """Read rows, without looking twice."""

    @abstractmethod
    def _states(self, start: int, stop: int) -> Iterable[tuple[str, FileStat]]:
        """Return the files that hold the rows, as they were at the opening."""

    @abstractmethod
    def _fingerprint(self) -> str:
        """Make the fingerprint."""

    def read(self, start: int, stop: int) -> Any:
        """Read a range of rows.

        Raises
        ------
        InputError
            A file has changed, or cannot be read after several tries.
        MissingInputError
            A file is gone.
        """
        return self._steady(lambda: self._read(start, stop), start, stop)

    def fingerprint(self) -> str:
        """Return the digest, made once by each process."""
        if self._given_fingerprint is not None:
            return self._given_fingerprint
        if self._made_fingerprint is None:
            self._made_fingerprint = with_retries(self._fingerprint, self.name)
        return self._made_fingerprint

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes it of what it sees itself.
        return {name: value for name, value in self.__dict__.items() if name != "_made_fingerprint"}

    def check_unchanged(self) -> None:
        """Check that this process sees all files as they were when they were opened.

        Raises
        ------
        InputError
            One has changed, or may not be looked at.
        MissingInputError
            One is not there.
        """
        self._check_unchanged(0, self.n_rows)

    def _steady(self, read: Callable[[], _R], start: int, stop: int) -> _R:
        def once() -> _R:
            try:
                found = read()
            except Exception:
                self._check_unchanged(start, stop)  # a better reason than what came of it
                raise
            self._check_unchanged(start, stop)
            return found

        return with_retries(once, describe_rows(self, start, stop))

    def _check_unchanged(self, start: int, stop: int) -> None:
        def check(known: tuple[str, FileStat]) -> None:
            path, before = known
            try:
                now = file_stat(path)
            except MissingInputError as error:
                raise MissingInputError(
                    f"{path} is gone since it was opened: put it back, and see that every worker has it."
                ) from error
            if now != before:
                raise InputError(
                    f"{path} has changed since it was opened ({before.size} bytes, {before.stamp} then; {now.size} "
                    f"bytes, {now.stamp} now): leave it as it is while it is read, and start again. Copies on "
                    "several hosts have to keep their times (cp -p, rsync -t)."
                )

        for_each(check, list(self._states(start, stop)))

    def _shallow(self) -> Self:
        return copy.copy(self)
