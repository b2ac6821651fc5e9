"""Atomic writes: a file is complete under its final name, or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nomad_dask.storage.disk_full import translate_disk_full


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` on success and removed on failure.

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
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with translate_disk_full(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if durable:
                with partial.open("rb") as f:
                    os.fsync(f.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_npy_header(out: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of a C-ordered ``.npy`` file, to which the rows are then appended."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)


def write_temporary(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` for a later task, atomically but not durably."""
    with atomic_write(path, durable=False) as partial, partial.open("wb") as out:
        np.save(out, array, allow_pickle=False)
