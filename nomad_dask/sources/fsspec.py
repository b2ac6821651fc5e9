"""Objects behind URLs, through fsspec: listing them, and reading ranges of their bytes."""

from __future__ import annotations

import errno
import io
import re
from typing import Any

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.sources.retry import with_retries

# Bytes of one request.
REQUEST_BYTES = 8 << 20
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# Keys under which storages report a version of the content; those that depend only on the content come first.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
_EXTRAS = {"s3": "nomad-dask[s3]", "s3a": "nomad-dask[s3]"}
_PACKAGES = {"abfs": "adlfs", "az": "adlfs", "gcs": "gcsfs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}


def is_url(path: object) -> bool:
    """Return whether a path is a URL such as ``s3://bucket/x.npy``."""
    return isinstance(path, str) and _URL.match(path) is not None


def protocol_of(url: str) -> str:
    """Return the protocol of a URL, such as ``s3`` for ``s3://bucket/x.npy``; empty if there is none."""
    match = _URL.match(url)
    return match.group(1).lower() if match else ""


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Credentials and server addresses come from the environment and fsspec's configuration.

    Raises
    ------
    InputError
        The protocol is unknown, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    protocol = protocol_of(url)
    try:
        # A cached listing would hide changes of the files.
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _EXTRAS.get(protocol) or _PACKAGES.get(protocol, "the package named above")
        raise InputError(
            f"{url} requires a package that is not installed ({error}): pip install {_quoted(package)}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{url} cannot be opened ({error}): give a path, or a URL that fsspec supports, such as s3://BUCKET/KEY."
        ) from error
    return fs, str(path)


def _quoted(package: str) -> str:
    return f"'{package}'" if "[" in package else package


def info(url: str) -> dict[str, Any]:
    """Return the information that the storage has about an object: its ``type``, ``size`` and more.

    Raises
    ------
    MissingInputError
        The object does not exist; the message suggests similar names.
    InputError
        Access is denied.
    """
    fs, path = filesystem(url)
    try:
        result: dict[str, Any] = with_retries(lambda: fs.info(path), url)
    except MissingInputError as error:
        raise MissingInputError(f"{url} does not exist.{_suggest_object(fs, path)}") from error
    return result


def _suggest_object(fs: Any, path: str) -> str:
    folder = path.rstrip("/").rpartition("/")[0]
    try:
        names = sorted(p.rstrip("/").rpartition("/")[2] for p in fs.ls(folder, detail=False))
    except Exception:  # noqa: BLE001 - a storage may fail to list in any way
        return " Check the URL."
    return f" In {fs.unstrip_protocol(folder)}: {suggest(path.rpartition('/')[2], names)}"


def stamp(info: dict[str, Any]) -> str:
    """Return a value that changes when an object is rewritten: its ETag, else a time; empty if unknown."""
    for key in _STAMPS:
        value = info.get(key)
        if value:
            # The same storage may report times in several types.
            return f"{key} {value.timestamp() if hasattr(value, 'timestamp') else value}"
    return ""


def size(info: dict[str, Any], url: str) -> int:
    """Return the size of an object in bytes.

    Raises
    ------
    InputError
        The server does not report the size.
    """
    if info.get("size") is None:
        raise InputError(
            f"{url}: the server does not report its size, which is required. Download it and give its path."
        )
    return int(info["size"])


def exists(url: str) -> bool:
    """Return whether an object of exactly this name exists."""
    try:
        return bool(info(url)["type"] == "file")
    except MissingInputError:
        return False


def find(url: str) -> dict[str, dict[str, Any]]:
    """Return all objects in a folder, recursively, as URLs with the information of the storage."""
    fs, path = filesystem(url)
    objects = with_retries(lambda: fs.find(path, detail=True), url)
    return {fs.unstrip_protocol(name): entry for name, entry in objects.items()}


def match(pattern: str) -> dict[str, dict[str, Any]]:
    """Return the objects that match a pattern, as URLs with the information of the storage."""
    fs, path = filesystem(pattern)
    objects = with_retries(lambda: fs.glob(path, detail=True), pattern)
    return {fs.unstrip_protocol(name): entry for name, entry in objects.items() if entry["type"] == "file"}


def read_range(url: str, start: int, stop: int) -> bytes:
    """Return a range of bytes of an object, by one request.

    Raises
    ------
    OSError
        The server returned another number of bytes.
    """
    fs, path = filesystem(url)
    return _check_length(fs.cat_file(path, start=start, end=stop), stop - start, url)


def read_ranges(url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """Return several ranges of bytes of an object, requested concurrently if the protocol supports it."""
    fs, path = filesystem(url)
    starts, stops = [a for a, _ in ranges], [b for _, b in ranges]
    contents = fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise")
    return [_check_length(content, b - a, url) for content, (a, b) in zip(contents, ranges, strict=True)]


def _check_length(content: bytes, expected: int, url: str) -> bytes:
    if len(content) != expected:
        raise OSError(errno.EIO, f"{url}: {len(content)} bytes received, {expected} requested")
    return content


class RangeFile(io.RawIOBase):
    """An object as a file; every read is a request for exactly its bytes.

    Parameters
    ----------
    url : str
    size : int
        Size of the object in bytes.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
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
        """Return the next `n` bytes, or all remaining bytes."""
        stop = self._size if n is None or n < 0 else min(self._position + n, self._size)
        if stop <= self._position:
            return b""
        content = read_range(self._url, self._position, stop)
        self._position = stop
        return content

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, and return the number of bytes read."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
