"""Objects behind URLs, by fsspec: what there is, and ranges of their bytes."""

from __future__ import annotations

import errno
import io
import re
from typing import Any

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.sources.retry import with_retries

# Bytes asked for in one request.
PIECE = 8 << 20
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# What storages call it, what depends on the content alone first.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
_EXTRAS = {"s3": "nomad-dask[s3]", "s3a": "nomad-dask[s3]"}
_PACKAGES = {"abfs": "adlfs", "az": "adlfs", "gcs": "gcsfs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}


def is_url(path: object) -> bool:
    """Tell whether a path is a URL such as ``s3://bucket/x.npy``."""
    return isinstance(path, str) and _URL.match(path) is not None


def protocol_of(url: str) -> str:
    """Return ``s3`` of ``s3://bucket/x.npy``."""
    found = _URL.match(url)
    return found.group(1).lower() if found else ""


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Credentials and addresses of servers come from the environment and fsspec's configuration.

    Raises
    ------
    InputError
        A protocol that is not known, or whose package is not installed.
    """
    from fsspec.core import url_to_fs

    protocol = protocol_of(url)
    try:
        # What is remembered of a folder would hide that its files have changed.
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _EXTRAS.get(protocol) or _PACKAGES.get(protocol, "the package it names")
        raise InputError(
            f"{url} needs a package that is not installed ({error}): pip install {_quoted(package)}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{url} cannot be opened ({error}): give a path, or a URL that fsspec knows, such as s3://BUCKET/KEY."
        ) from error
    return fs, str(path)


def _quoted(package: str) -> str:
    return f"'{package}'" if "[" in package else package


def info(url: str) -> dict[str, Any]:
    """Return what the storage tells of an object: its ``type``, ``size`` and more.

    Raises
    ------
    MissingInputError
        There is none. Names near to it are named.
    InputError
        It may not be looked at.
    """
    fs, path = filesystem(url)
    try:
        found: dict[str, Any] = with_retries(lambda: fs.info(path), url)
    except MissingInputError as error:
        raise MissingInputError(f"{url} does not exist.{_near_ones(fs, path)}") from error
    return found


def _near_ones(fs: Any, path: str) -> str:
    folder = path.rstrip("/").rpartition("/")[0]
    try:
        names = sorted(p.rstrip("/").rpartition("/")[2] for p in fs.ls(folder, detail=False))
    except Exception:  # noqa: BLE001 - any storage may have its own reasons not to list
        return " Check the URL."
    return f" In {fs.unstrip_protocol(folder)}: {suggest(path.rpartition('/')[2], names)}"


def stamp(found: dict[str, Any]) -> str:
    """Return what changes when an object is written again: its ETag, else a time; empty where nothing is told."""
    for key in _STAMPS:
        value = found.get(key)
        if value:
            # Times are told in several types by one and the same storage.
            return f"{key} {value.timestamp() if hasattr(value, 'timestamp') else value}"
    return ""


def size(found: dict[str, Any], url: str) -> int:
    """Return the bytes of an object.

    Raises
    ------
    InputError
        The server does not tell.
    """
    if found.get("size") is None:
        raise InputError(f"{url}: the server does not tell its size, which is needed. Download it and give its path.")
    return int(found["size"])


def exists(url: str) -> bool:
    """Tell whether there is an object of just this name."""
    try:
        return bool(info(url)["type"] == "file")
    except MissingInputError:
        return False


def find(url: str) -> dict[str, dict[str, Any]]:
    """Return the objects in a folder and those in it, as URLs with what the storage tells of each."""
    fs, path = filesystem(url)
    found = with_retries(lambda: fs.find(path, detail=True), url)
    return {fs.unstrip_protocol(name): about for name, about in found.items()}


def match(pattern: str) -> dict[str, dict[str, Any]]:
    """Return the objects that match a pattern, as URLs with what the storage tells of each."""
    fs, path = filesystem(pattern)
    found = with_retries(lambda: fs.glob(path, detail=True), pattern)
    return {fs.unstrip_protocol(name): about for name, about in found.items() if about["type"] == "file"}


def read_range(url: str, start: int, stop: int) -> bytes:
    """Return some bytes of an object, by one request.

    Raises
    ------
    OSError
        The server gave another number of bytes.
    """
    fs, path = filesystem(url)
    return _whole(fs.cat_file(path, start=start, end=stop), stop - start, url)


def read_ranges(url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """Return several ranges of bytes of an object, asked for at once where the protocol can."""
    fs, path = filesystem(url)
    starts, stops = [a for a, _ in ranges], [b for _, b in ranges]
    found = fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise")
    return [_whole(content, b - a, url) for content, (a, b) in zip(found, ranges, strict=True)]


def _whole(content: bytes, expected: int, url: str) -> bytes:
    if len(content) != expected:
        raise OSError(errno.EIO, f"{url}: {len(content)} bytes came where {expected} were asked for")
    return content


class RangeFile(io.RawIOBase):
    """An object read as a file, every read by a request for just its bytes.

    Parameters
    ----------
    url : str
    size : int
        Bytes of the object.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, n: int | None = -1, /) -> bytes:
        """Return the next `n` bytes, or all that are left."""
        stop = self._size if n is None or n < 0 else min(self._position + n, self._size)
        if stop <= self._position:
            return b""
        content = read_range(self._url, self._position, stop)
        self._position = stop
        return content

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer as much as it holds."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
