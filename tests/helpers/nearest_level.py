"""The weights that codes stand for, by brute force."""

from __future__ import annotations

import numpy as np


def nearest_level(weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the level (k,) nearest to each weight, by their ratio; 0 for 0."""
    distances = np.abs(np.log(levels) - np.log(np.where(weights > 0, weights, 1))[..., None])
    return np.where(weights > 0, levels[distances.argmin(axis=-1)], 0)
