"""Atomic writes: a file is complete under its final name, or absent."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nomad_dask.storage.disk_full import translate_disk_full
from nomad_dask.storage.regular_files import check_replaceable, open_regular

# A file name has at most 255 bytes, of which the other parts of a temporary name need 19.
_MAX_STEM_BYTES = 200
_PARTIAL = "partial"


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary file that is renamed to `path` on success and removed on failure.

    The file exists already and is empty; it stays locked until the end, so that `remove_partials` of other processes
    leaves it alone.

    Parameters
    ----------
    path : Path
        Final path; its directory is created if missing.
    durable : bool
        Flush the file to the disk before renaming it. Without this, the file may be lost in a power failure, which is
        acceptable for a file that is only needed until then.

    Raises
    ------
    DiskFullError
        The disk has no space left; the partial file is removed.
    InputError
        `path` is a symbolic link, directory or special file.
    FileNotFoundError
        Nothing was written.
    """
    partial = temporary_name(path, _PARTIAL)
    try:
        with translate_disk_full(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            check_replaceable(path)
            descriptor = open_regular(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield partial
                if not partial.stat().st_size:
                    raise FileNotFoundError(f"Nothing was written to {partial}.")
                if durable:
                    with partial.open("rb") as f:
                        os.fsync(f.fileno())
                partial.replace(path)
            finally:
                os.close(descriptor)
    finally:
        partial.unlink(missing_ok=True)


def link_over(source: Path, path: Path) -> None:
    """Give a file a second name, in place of the file that had it: without writing its content, where links exist.

    Parameters
    ----------
    source : Path
        The file: one that is replaced when it changes, and not written to.
    path : Path
        The second name, on the same file system.

    Raises
    ------
    DiskFullError
        The disk has no space left for a copy.
    InputError
        `path` is a symbolic link, directory or special file.
    """
    check_replaceable(path)
    partial = temporary_name(path, _PARTIAL)
    try:
        os.link(source, partial)
        partial.replace(path)
    except OSError:  # a file system without links
        with atomic_write(path) as copy:
            copy.write_bytes(source.read_bytes())
    finally:
        partial.unlink(missing_ok=True)


def temporary_name(path: Path, kind: str, token: str | None = None) -> Path:
    """Return a hidden name beside a path, which `find_temporary` finds by the path and the kind.

    Parameters
    ----------
    path : Path
    kind : str
        Last part of the name.
    token : str, optional
        Part of the name of 8 hexadecimal digits; by default a random one.
    """
    return path.with_name(f".{_stem(path)}.{token or secrets.token_hex(4)}.{kind}")


def find_temporary(path: Path, kind: str) -> Iterable[Path]:
    """Return the existing files or directories whose names `temporary_name` has made of a path."""
    pattern = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{8}}\.{kind}")
    try:
        return [p for p in path.parent.iterdir() if pattern.fullmatch(p.name)]
    except OSError:
        return []


def remove_partials(path: Path) -> None:
    """Remove the temporary files that killed processes have left beside a file; those being written are kept."""
    for partial in find_temporary(path, _PARTIAL):
        with suppress(OSError):
            descriptor = open_regular(partial, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
            finally:
                os.close(descriptor)


def _stem(path: Path) -> str:
    """Return the name of a path, shortened if a temporary name would be too long."""
    return os.fsencode(path.name)[:_MAX_STEM_BYTES].decode(errors="ignore")


def write_npy_header(out: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of a C-ordered ``.npy`` file, to which the rows are then appended."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)


def write_temporary(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` for a later task, atomically but not durably."""
    with atomic_write(path, durable=False) as partial, partial.open("wb") as out:
        np.save(out, array, allow_pickle=False)
