"""The vectors of a model as a source, so that another map can be made of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from nomad_dask.model.arrays import ModelArrays
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.sources.base import Source
from nomad_dask.sources.rescaling import Rescaling


class ModelSource(Source):
    """The vectors of a model, in the order of its rows.

    Vectors of an unusual range come back as float64 in their own unit, those that were shortened as they were stored.

    Parameters
    ----------
    arrays : ModelArrays
    name : str
        In messages.
    checksum : str
        Stands for the content of all arrays.
    """

    def __init__(self, arrays: ModelArrays, name: str, checksum: str) -> None:
        self._arrays, self._checksum, self.name = arrays, checksum, name
        self._rescaling = Rescaling.from_array(np.array(arrays.open("sample/rescaling.npy")))
        self.n_rows, self.n_dims = arrays.n_rows, int(arrays.catalog.centroids.shape[1])
        stored: np.dtype[Any] = arrays.open(shard_file(0, "vectors")).dtype
        self.dtype = np.dtype(np.float64) if self._is_rescaled else stored

    @property
    def _is_rescaled(self) -> bool:
        """Whether the stored vectors have another unit; those of unit length have the same directions."""
        return not (self._rescaling.is_identity or self._rescaling.unit_length)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        rows = self._arrays.vectors().read_stored(start, stop)
        if self._is_rescaled:
            return np.asarray(np.ldexp(rows.astype(np.float64), -self._rescaling.exponent) + self._rescaling.offset)
        return rows

    def fingerprint(self) -> str:
        """Return a digest of the content."""
        return hashlib.sha256(self._checksum.encode()).hexdigest()
