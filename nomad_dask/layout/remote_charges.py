"""The charges by which the rows of other shards repel those of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from nomad_dask.layout.shard_summary import Summary


@dataclass(frozen=True)
class RemoteCharges:
    """Charges that represent the rows of all other shards.

    A patch of several rows is spread over two opposite corners of a box of one standard deviation in each direction: a
    single charge at its mean would push a hole into the map. The diagonal changes from patch to patch, so that none is
    preferred.

    Attributes
    ----------
    single_patches : ndarray of int64
        Patches of one row, by their number among the patches of all shards.
    larger_patches : ndarray of int64
        Patches of more rows.
    weights : ndarray of float32 (n_charges,)
        Rows that each charge represents.
    """

    single_patches: np.ndarray
    larger_patches: np.ndarray
    weights: np.ndarray

    @classmethod
    def of_others(cls, shard: int, counts: np.ndarray, dim: int) -> Self:
        """Return the charges for one shard, from the number of rows (n_shards, n_patches) in each patch."""
        rows = counts.copy()
        rows[shard] = 0
        rows = rows.reshape(-1)
        single, larger = np.flatnonzero(rows == 1), np.flatnonzero(rows > 1)
        weights = np.concatenate([rows[single], np.repeat(rows[larger] / 2, 2)])
        return cls(single, larger, weights.astype(np.float32))

    def points(self, summary: Summary) -> np.ndarray:
        """Return the positions (n_charges, dim) float32 of the charges for a summary."""
        flat, dim = summary.flat(), summary.patches.shape[2] // 2
        moments = flat[self.larger_patches]
        means, shifts = moments[:, :dim], moments[:, dim:] * _diagonals(dim)[self.larger_patches % 2 ** (dim - 1)]
        pairs = np.stack([means - shifts, means + shifts], axis=1).reshape(-1, dim)
        return np.concatenate([flat[self.single_patches, :dim], pairs])


def _diagonals(dim: int) -> np.ndarray:
    """Return the directions (2^(dim-1), dim) float32 of the diagonals of a box from -1 to 1."""
    corners = np.array(np.meshgrid(*[[-1, 1]] * dim)).reshape(dim, -1).T
    return corners[corners[:, 0] > 0].astype(np.float32)
