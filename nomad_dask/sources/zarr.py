"""Vectors in a zarr array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.base import PerThread, Source
from nomad_dask.sources.digest import digest_of, file_digest
from nomad_dask.sources.rows import check_shape, native_dtype


class ZarrSource(Source):
    """Rows of a zarr array in a directory.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    InputError
        zarr is not installed, the directory holds no array, or the array is not two-dimensional, empty,
        or of a type that is not accepted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.name = str(path)
        self._opened = PerThread()
        array = self._array()
        self.dtype = native_dtype(array.dtype, self.name)
        self.n_rows, self.n_dims = check_shape(array.shape, self.name)
        self._step = int((array.shards or array.chunks)[0])

    def _array(self) -> Any:
        opened = self._opened.__dict__
        if "array" not in opened:
            opened["array"] = _open(self.path, self.name)
        return opened["array"]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the chunks that the range needs."""
        return np.ascontiguousarray(self._array()[start:stop], dtype=self.dtype)

    def breaks(self) -> Sequence[int]:
        """Return the edges of the shards, or of the chunks where there are none."""
        return range(0, self.n_rows + self._step, self._step)

    def fingerprint(self) -> str:
        """Digest the names and sizes of all files and some of three of them."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        sizes = [(p.relative_to(self.path).as_posix(), p.stat().st_size) for p in files]
        some = {files[0], files[len(files) // 2], files[-1]}
        return digest_of(["zarr", *sizes, *(file_digest(p) for p in sorted(some))])


def _open(path: Path, name: str) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{name} is a zarr directory, which needs the package zarr: pip install nomad-dask[zarr]"
        ) from error
    try:
        found = zarr.open(path, mode="r")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{name} cannot be read as a zarr array ({error}). Write it again.") from error
    if isinstance(found, zarr.Group):
        arrays = ", ".join(sorted(found.array_keys())) or "none"
        raise InputError(f"{name} is a group of zarr arrays ({arrays}): give the path of one array in it.")
    return found
