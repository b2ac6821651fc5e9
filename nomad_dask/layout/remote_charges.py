"""The charges by which the rows of other shards repel those of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from nomad_dask.layout.shard_summary import Summary


@dataclass(frozen=True)
class RemoteCharges:
    """Charges that represent the rows of all other shards.

    A patch of several rows is spread over the corners of a box of one standard deviation in each direction: a single
    charge at its mean would push a hole into the map.

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
        corner_weights = np.repeat(rows[larger] / 2**dim, 2**dim)
        return cls(single, larger, np.concatenate([rows[single], corner_weights]).astype(np.float32))

    def points(self, summary: Summary) -> np.ndarray:
        """Return the positions (n_charges, dim) float32 of the charges for a summary."""
        flat, dim = summary.flat(), summary.patches.shape[2] // 2
        n_single, corners = len(self.single_patches), _corners(dim)
        points = np.empty((len(self.weights), dim), np.float32)
        points[:n_single] = flat[self.single_patches, :dim]
        moments = flat[self.larger_patches]
        # All corners of a patch in one row: NumPy is slow on rows of only `dim` elements.
        corner_points = points[n_single:].reshape(len(moments), corners.size)
        axes = np.tile(np.arange(dim), len(corners))
        np.multiply(moments[:, dim + axes], corners.reshape(-1), out=corner_points)
        corner_points += moments[:, axes]
        return points


def _corners(dim: int) -> np.ndarray:
    """Return the corners (2^dim, dim) float32 of the box from -1 to 1."""
    return np.array(np.meshgrid(*[[-1, 1]] * dim)).reshape(dim, -1).T.astype(np.float32)
