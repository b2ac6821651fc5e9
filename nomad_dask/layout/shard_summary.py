"""What shards exchange between epochs: means and standard deviations of their patches, and their part of Z.

A patch is a small group of nearby rows. There are at most `plan.N_PATCHES` patches for any number of rows, and every
shard pads its patches to the same number: the size of a summary depends on the number of patches and shards only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ShardSummary:
    """One shard after an epoch.

    Attributes
    ----------
    shard : int
    patches : ndarray of float32 (n_patches, 2·dim)
        Means and standard deviations of its patches, padded with zeros to the same number in every shard.
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
    patches : ndarray of float32 (n_shards, n_patches, 2·dim)
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
        """Return the mean, and the variance summed over the axes, of all patches, (all patches, dim + 1) float32."""
        flat, dim = self.flat(), self.patches.shape[2] // 2
        moments = np.empty((len(flat), dim + 1), np.float32)
        moments[:, :dim] = flat[:, :dim]
        np.einsum("ij,ij->i", flat[:, dim:], flat[:, dim:], out=moments[:, dim])
        return moments

    def flat(self) -> np.ndarray:
        """Return means and standard deviations (all patches, 2·dim), shard by shard."""
        return self.patches.reshape(-1, self.patches.shape[2])

    def extrapolate(self, previous: Summary, factor: float) -> Summary:
        """Return a summary in which all patches move on by `factor` times their change since an earlier summary."""
        return Summary(self.patches + np.float32(factor) * (self.patches - previous.patches), self.partition_sums)

    def remote_partition_sum(self, shard: int) -> float | None:
        """Return the other shards' part of Z, or None if one of them is not known yet."""
        others = [part for s, part in enumerate(self.partition_sums) if s != shard]
        return None if any(part is None for part in others) else float(sum(others))  # type: ignore[arg-type]


def merge_summaries(summaries: Sequence[ShardSummary]) -> Summary:
    """Merge the summaries of all shards, given in any order."""
    ordered = sorted(summaries, key=lambda summary: summary.shard)
    return Summary(np.stack([s.patches for s in ordered]), tuple(s.partition_sum for s in ordered))
