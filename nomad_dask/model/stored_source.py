"""The vectors of a model as a source, so that another map can be made of them."""

from __future__ import annotations

import hashlib

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
        shapes = [arrays.open(shard_file(shard, "vectors")) for shard in range(arrays.n_shards)]
        self._offsets = np.cumsum([0, *(len(vectors) for vectors in shapes)])
        self.n_rows, self.n_dims = int(self._offsets[-1]), int(shapes[0].shape[1])
        self.dtype = np.dtype(np.float64) if self._is_rescaled else shapes[0].dtype

    @property
    def _is_rescaled(self) -> bool:
        """Whether the stored vectors have another unit; those of unit length have the same directions."""
        return not (self._rescaling.is_identity or self._rescaling.unit_length)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        rows = np.empty((stop - start, self.n_dims), self.dtype)
        for shard, (begin, end) in enumerate(zip(self._offsets[:-1], self._offsets[1:], strict=True)):
            first, last = max(start, int(begin)), min(stop, int(end))
            if first < last:
                vectors = self._arrays.open(shard_file(shard, "vectors"))
                rows[first - start : last - start] = vectors[first - begin : last - begin]
        if self._is_rescaled:
            rows = np.ldexp(rows, -self._rescaling.exponent) + self._rescaling.offset
        return rows

    def fingerprint(self) -> str:
        """Return a digest of the content."""
        return hashlib.sha256(self._checksum.encode()).hexdigest()
