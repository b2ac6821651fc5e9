"""The size of initial positions from a coarse map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The width of a map of n points is about proportional to √n. The coarse map is scaled to this standard deviation
# over √n, and grows from there (algorithm §4b, where it is a factor on the coarse map, whose size depends on its
# epochs). The jitter is relative to that.
_INITIAL_STD = 0.23
_JITTER = 0.5
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class CoarseScale:
    """The size of a start from a coarse map.

    Attributes
    ----------
    factor : float
        On the positions of the coarse map.
    jitter : float
        Standard deviation of the jitter, in map units.
    """

    factor: float
    jitter: float


def coarse_scale(coarse: np.ndarray, n_rows: int, init_std: float, weight: float) -> CoarseScale:
    """Return the size of the start of a map of `n_rows` rows.

    Parameters
    ----------
    coarse : ndarray (m, dim)
        The coarse map.
    n_rows : int
    init_std : float
        Standard deviation of a start without a coarse map.
    weight : float
        See `coarse_weight`.
    """
    full_std = _INITIAL_STD * n_rows ** (1 / coarse.shape[1])
    std = (1 - weight) * init_std + weight * full_std
    return CoarseScale(float(std / max(coarse.std(axis=0).mean(), 1e-6)), _JITTER * std / full_std)


def scale_coarse_init(positions: np.ndarray, scale: CoarseScale, rng: np.random.Generator) -> None:
    """Scale positions (n_rows, dim) float32 in the coarse map to a start, in place, and add the jitter."""
    for start in range(0, len(positions), _ROWS_AT_ONCE):
        part = positions[start : start + _ROWS_AT_ONCE]
        part *= scale.factor
        part += rng.standard_normal(part.shape) * scale.jitter
