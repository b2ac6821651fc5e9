"""Vectors in several ``.npy`` files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.files import FileSource, FileStat
from nomad_dask.sources.fingerprint import digest_of
from nomad_dask.sources.npy import NpySource, RemoteNpySource


class NpyFilesSource(FileSource):
    """Rows of several ``.npy`` files, in the order of the files.

    Parameters
    ----------
    files : sequence of NpySource or RemoteNpySource
        At least one, all with the same number of dimensions. Their dtypes may differ.
    name : str
        Name of the data in messages.

    Raises
    ------
    InputError
        The files have different numbers of dimensions.
    """

    def __init__(self, files: Sequence[NpySource | RemoteNpySource], name: str) -> None:
        self.name = name
        self._files = tuple(files)
        for file in files:
            if file.n_dims != files[0].n_dims:
                raise InputError(
                    f"{files[0].name} has {files[0].n_dims} dimensions, and {file.name} has {file.n_dims}: give files "
                    "of equal dimensions, or a pattern that matches only these."
                )
        self.dtype = np.result_type(*(file.dtype for file in files))
        self._edges = np.cumsum([0, *(file.n_rows for file in files)])
        self.n_rows, self.n_dims = int(self._edges[-1]), files[0].n_dims

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Return the overlap of a row range with each file: its index and first row, start, stop."""
        pieces = []
        for i in range(max(0, int(np.searchsorted(self._edges, start, "right")) - 1), len(self._files)):
            low, high = int(self._edges[i]), int(self._edges[i + 1])
            if low >= stop:
                break
            pieces.append((i, low, max(start, low), min(stop, high)))
        return pieces

    def _read(self, start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, self.n_dims), self.dtype)
        for i, low, a, b in self._pieces(start, stop):
            rows[a - start : b - start] = self._files[i]._read(a - low, b - low)
        return rows

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the files."""
        return [int(edge) for edge in self._edges]

    def slice_rows(self, start: int, stop: int) -> Self:
        """Drop the files that the rows do not need."""
        part = self._shallow()
        needed = [i for i, *_ in self._pieces(start, stop)] or [0]
        part._files = self._files[needed[0] : needed[-1] + 1]
        part._edges = self._edges[needed[0] : needed[-1] + 2]  # still row numbers of all files
        return part

    def _states(self, start: int, stop: int) -> list[tuple[str, FileStat]]:
        return [state for i, *_ in self._pieces(start, stop) for state in self._files[i]._states(0, 0)]

    def _fingerprint(self) -> str:
        """Digest the fingerprints of the files."""
        return digest_of(["npy files", *(file.fingerprint() for file in self._files)])

    def __dask_tokenize__(self) -> Any:
        return type(self).__qualname__, self.fingerprint()
