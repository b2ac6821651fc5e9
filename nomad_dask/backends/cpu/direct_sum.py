"""The field as the plain sum over all pairs of points and charges: exact, and faster than a mesh for few points."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from nomad_dask.utils.threads import Threads

_CHUNK = 1 << 9


def sum_directly(
    points: np.ndarray,
    charges: np.ndarray,
    weights: np.ndarray,
    potential: np.ndarray,
    gradient: np.ndarray,
    pool: Threads,
) -> float:
    """Write U (n,) and ∇U (n, dim) of charges at points; return Σ U in float64.

    Parameters
    ----------
    points : ndarray of float32 (n, dim)
    charges : ndarray of float32 (m, dim)
    weights : ndarray of float32 (m,)
    potential : ndarray of float32 (n,)
    gradient : ndarray of float32 (n, dim)
    pool : Threads
    """
    kernel = direct_sum_kernel(points.shape[1])
    by_axis = np.ascontiguousarray(charges.T)
    sums = np.zeros(-(-len(points) // _CHUNK))

    def add(start: int, stop: int) -> None:
        sums[start // _CHUNK] = kernel(points, start, stop, by_axis, weights, potential, gradient)

    pool.run(add, len(points), _CHUNK)
    return float(sums.sum())


@lru_cache
def direct_sum_kernel(dim: int) -> Any:
    """Compile (or load from the cache) the kernel for maps of `dim` dimensions."""

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def direct(points, start, stop, charges, weights, potential, gradient):  # type: ignore[no-untyped-def]
        """Write U and ∇U at points by summing over all charges (dim, m); return the potential's sum."""
        total: Any = 0.0
        one, minus_two = np.float32(1), np.float32(-2)
        for i in range(start, stop):
            x, y = points[i, 0], points[i, 1]
            z = points[i, 2] if dim == 3 else np.float32(0)
            value = np.float32(0)
            slope_x, slope_y, slope_z = np.float32(0), np.float32(0), np.float32(0)
            for m in range(weights.size):
                dx, dy = x - charges[0, m], y - charges[1, m]
                squared = dx * dx + dy * dy
                if dim == 3:
                    dz = z - charges[2, m]
                    squared += dz * dz
                q = one / (one + squared)
                share = weights[m] * q
                value += share
                slope_x += share * q * dx
                slope_y += share * q * dy
                if dim == 3:
                    slope_z += share * q * dz
            potential[i] = value
            gradient[i, 0] = minus_two * slope_x
            gradient[i, 1] = minus_two * slope_y
            if dim == 3:
                gradient[i, 2] = minus_two * slope_z
            total += value
        return total

    return direct
