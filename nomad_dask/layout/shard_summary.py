"""What shards tell each other between epochs: means and spreads of patches, and their part of Z.

A patch is a few near rows. There are at most `plan.N_PATCHES` of them, however many rows there are, and what
is sent is filled up to that number: the size of a summary depends on the number of patches and shards only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class ShardSummary:
    """One shard after an epoch.

    Attributes
    ----------
    shard : int
    patches : ndarray of float32 (patches, 2·dim)
        Means and standard deviations of its patches, filled up with zeros to the same number in every shard.
    partition_sum : float or None
        The shard's part of Z = Σ_i Z_i; None before the first epoch.
    """

    shard: int
    patches: np.ndarray
    partition_sum: float | None

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and scalars."""
        return self.patches.nbytes + 16


@dataclass(frozen=True)
class Summary:
    """All shards after an epoch.

    Attributes
    ----------
    patches : ndarray of float32 (shards, patches, 2·dim)
    partition_sums : tuple of float or None
        Each shard's part of Z; None before the first epoch.
    """

    patches: np.ndarray
    partition_sums: tuple[float | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and scalars."""
        return self.patches.nbytes + 8 * len(self.partition_sums)

    def moments(self) -> np.ndarray:
        """Return means and variances, summed over the axes, (all patches, dim + 1) float32, shard by shard."""
        flat, dim = self.flat(), self.patches.shape[2] // 2
        moments = np.empty((len(flat), dim + 1), np.float32)
        moments[:, :dim] = flat[:, :dim]
        np.einsum("ij,ij->i", flat[:, dim:], flat[:, dim:], out=moments[:, dim])
        return moments

    def flat(self) -> np.ndarray:
        """Return means and standard deviations (all patches, 2·dim), shard by shard."""
        return self.patches.reshape(-1, self.patches.shape[2])

    def extrapolate(self, before: Summary, share: float) -> Summary:
        """Return what follows if all patches move on by a share of their way since an earlier summary."""
        return Summary(self.patches + np.float32(share) * (self.patches - before.patches), self.partition_sums)

    def remote_partition_sum(self, shard: int) -> float | None:
        """Return the other shards' part of Z, or None when one of them is not known yet."""
        others = [z for s, z in enumerate(self.partition_sums) if s != shard]
        return None if any(z is None for z in others) else float(sum(others))  # type: ignore[arg-type]


@dataclass(frozen=True)
class RemoteCharges:
    """The charges that stand for the rows of all other shards, wherever their patches are.

    A patch of several rows is spread over the corners of its box of one standard deviation: one charge at
    its mean would push a hole into the map.

    Attributes
    ----------
    single : ndarray of int64
        Patches of one row, by their number among those of all shards.
    several : ndarray of int64
        Patches of more rows.
    weights : ndarray of float32 (charges,)
        Rows that each charge stands for.
    """

    single: np.ndarray
    several: np.ndarray
    weights: np.ndarray

    @classmethod
    def of_others(cls, shard: int, counts: np.ndarray, dim: int) -> Self:
        """Return the charges that one shard sees, from the rows (shards, patches) of each patch."""
        rows = counts.copy()
        rows[shard] = 0
        rows = rows.reshape(-1)
        single, several = np.flatnonzero(rows == 1), np.flatnonzero(rows > 1)
        shares = np.repeat(rows[several] / 2**dim, 2**dim)
        return cls(single, several, np.concatenate([rows[single], shares]).astype(np.float32))

    def points(self, summary: Summary) -> np.ndarray:
        """Return where they are now, (charges, dim) float32."""
        flat, dim = summary.flat(), summary.patches.shape[2] // 2
        n_single, corners = len(self.single), _corners(dim)
        points = np.empty((len(self.weights), dim), np.float32)
        points[:n_single] = flat[self.single, :dim]
        moments = flat[self.several]
        # All corners of a patch in one row: NumPy's loops are slow on rows as short as `dim`.
        spread = points[n_single:].reshape(len(moments), corners.size)
        axes = np.tile(np.arange(dim), len(corners))
        np.multiply(moments[:, dim + axes], corners.reshape(-1), out=spread)
        spread += moments[:, axes]
        return points


def _corners(dim: int) -> np.ndarray:
    """Return the corners (2^dim, dim) float32 of the box from -1 to 1."""
    return np.array(np.meshgrid(*[[-1, 1]] * dim)).reshape(dim, -1).T.astype(np.float32)


def merge_summaries(parts: Sequence[ShardSummary]) -> Summary:
    """Put the shards' summaries together, in the order of the shards whatever order they came in."""
    ordered = sorted(parts, key=lambda p: p.shard)
    return Summary(np.stack([p.patches for p in ordered]), tuple(p.partition_sum for p in ordered))
