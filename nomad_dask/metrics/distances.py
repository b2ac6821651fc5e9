"""Euclidean distances of any finite float64 rows: no square overflows, underflows or loses the digits of an offset."""

from __future__ import annotations

import numpy as np

from nomad_dask.utils.row_norms import row_norms

_CACHED_VALUES = 1 << 17  # float64 differences that a thread computes at once, so that they stay in its cache
# Rows are multiplied by a power of two, so that no difference overflows, and none of tiny rows loses digits.
_SHRINK, _STRETCH = 2.0**-40, 2.0**100
_TINY = 2.0**-900
_LARGEST = 2.0**1000


def safe_factor(rows: np.ndarray) -> float:
    """Return the power of two by which to multiply data of which `rows` are a sample."""
    largest = max(float(rows.max(initial=0)), -float(rows.min(initial=0)))
    return _SHRINK if largest > _TINY else _STRETCH


def multiply(rows: np.ndarray, factor: float) -> np.ndarray:
    """Return rows as float64 times a factor from `safe_factor`, all finite."""
    with np.errstate(over="ignore"):
        scaled = rows.astype(np.float64)
        scaled *= factor
    return scaled if factor < 1 else np.clip(scaled, -_LARGEST, _LARGEST, out=scaled)


def pair_distances(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return the distances between rows ``a[i]`` and ``b[j]``, both float64."""
    out = np.empty(i.size)
    step = max(1, _CACHED_VALUES // a.shape[1])
    for s in range(0, i.size, step):
        difference = a[i[s : s + step]]
        difference -= b[j[s : s + step]]
        out[s : s + step] = row_norms(difference)
    return out
