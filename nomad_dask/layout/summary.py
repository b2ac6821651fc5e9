"""What shards tell each other between epochs: means and spreads of patches, and their part of Z.

A patch is a few near rows. There are at most `plan.N_PATCHES` of them, however many rows there are, and what
is sent is filled up to that number: the size of a summary depends on the number of patches and shards only.
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
    patches : ndarray of float32 (patches, 2·dim)
        Means and standard deviations of its patches, filled up with zeros to the same number in every shard.
    z : float or None
        The shard's part of Z = Σ_i Z_i; None before the first epoch.
    loss : float or None
        The shard's part of the attraction loss, when it was measured.
    """

    shard: int
    patches: np.ndarray
    z: float | None
    loss: float | None = None

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
    z : tuple of float or None
        Each shard's part of Z; None before the first epoch.
    """

    patches: np.ndarray
    z: tuple[float | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and scalars."""
        return self.patches.nbytes + 8 * len(self.z)

    def moments(self) -> np.ndarray:
        """Return means and variances, summed over the axes, (all patches, dim + 1) float32, shard by shard."""
        dim = self.patches.shape[2] // 2
        variances = (self.patches[:, :, dim:] ** 2).sum(axis=2, keepdims=True)
        moments = np.concatenate([self.patches[:, :, :dim], variances], axis=2)
        return np.ascontiguousarray(moments.reshape(-1, dim + 1))

    def charges_of_others(self, shard: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return charges (m, dim) that stand for the rows of all other shards, and their weights (m,).

        A patch of several rows is spread over the corners of its box of one standard deviation: one charge
        at its mean would push a hole into the map.

        Parameters
        ----------
        shard : int
        counts : ndarray of float32 (shards, patches)
            Rows of each patch.
        """
        dim = self.patches.shape[2] // 2
        others = np.arange(len(self.patches)) != shard
        patches, rows = self.patches[others].reshape(-1, 2 * dim), counts[others].reshape(-1)
        patches, rows = patches[rows > 0], rows[rows > 0]
        means, spreads = patches[:, :dim], patches[:, dim:]
        single = rows == 1
        corners = np.array(np.meshgrid(*[[-1, 1]] * dim)).reshape(dim, -1).T
        spread_out = means[~single, None, :] + corners * spreads[~single, None, :]
        weights = np.repeat(rows[~single] / len(corners), len(corners))
        points = np.concatenate([means[single], spread_out.reshape(-1, dim)])
        return points.astype(np.float32), np.concatenate([rows[single], weights]).astype(np.float32)

    def z_of_others(self, shard: int) -> float | None:
        """Return the other shards' part of Z, or None when one of them is not known yet."""
        others = [z for s, z in enumerate(self.z) if s != shard]
        return None if any(z is None for z in others) else float(sum(others))  # type: ignore[arg-type]


def merge(parts: Sequence[ShardSummary]) -> Summary:
    """Put the shards' summaries together, in the order of the shards whatever order they came in."""
    ordered = sorted(parts, key=lambda p: p.shard)
    return Summary(np.stack([p.patches for p in ordered]), tuple(p.z for p in ordered))
