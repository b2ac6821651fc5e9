"""What shards tell each other between epochs: counts and means of cells, and their part of Z.

The size of a summary depends on the number of cells and shards only, never on the number of rows.
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
    cell_means : ndarray of float32 (cells of the shard, dim)
        Means of its K-Means cells, in the shard's order of cells.
    grid : ndarray of float32 (m, 1 + dim)
        Count and mean of the non-empty layout cells: a grid of 16 along each axis over the shard's extent.
    z : float
        The shard's part of Z = Σ_i Z_i.
    loss : float or None
        The shard's part of the attraction loss, when it was measured.
    """

    shard: int
    cell_means: np.ndarray
    grid: np.ndarray
    z: float | None
    loss: float | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and scalars."""
        return self.cell_means.nbytes + self.grid.nbytes + 16


@dataclass(frozen=True)
class Summary:
    """All shards, as each of them sees the others.

    Attributes
    ----------
    cell_means : ndarray of float32 (cells of all shards, dim)
        By global cell number.
    grids : tuple of ndarray
        The grid of each shard.
    z : tuple of float or None
        Each shard's part of Z; None before the first epoch.
    """

    cell_means: np.ndarray
    grids: tuple[np.ndarray, ...]
    z: tuple[float | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and scalars."""
        return self.cell_means.nbytes + sum(g.nbytes for g in self.grids) + 8 * len(self.z)

    def grid_of_others(self, shard: int) -> np.ndarray:
        """Return counts and means of the layout cells of all other shards."""
        others = [g for s, g in enumerate(self.grids) if s != shard]
        return np.concatenate(others) if others else self.grids[shard][:0]

    def z_of_others(self, shard: int) -> float | None:
        """Return the other shards' part of Z, or None when one of them is not known yet."""
        others = [z for s, z in enumerate(self.z) if s != shard]
        return None if any(z is None for z in others) else float(sum(others))  # type: ignore[arg-type]


def merge(parts: Sequence[ShardSummary], cells_of_shards: Sequence[np.ndarray]) -> Summary:
    """Put the shards' summaries together, in the order of the shards whatever order they came in.

    Parameters
    ----------
    parts : sequence of ShardSummary
        One for every shard, in any order.
    cells_of_shards : sequence of ndarray of int
        Global cell numbers of each shard, in the shard's order.
    """
    ordered = sorted(parts, key=lambda p: p.shard)
    dim = ordered[0].cell_means.shape[1]
    means = np.zeros((sum(len(c) for c in cells_of_shards), dim), np.float32)
    for part, cells in zip(ordered, cells_of_shards, strict=True):
        means[cells] = part.cell_means
    return Summary(means, tuple(p.grid for p in ordered), tuple(p.z for p in ordered))
