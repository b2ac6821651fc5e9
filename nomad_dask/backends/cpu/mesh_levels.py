"""Restriction to a mesh four times coarser, and prolongation back; both exact, because cubic B-splines are nested.

A spline of four times the spacing is a sum of thirteen of single spacing. So coefficients on the coarse mesh
become those of the same function on the fine mesh, and charges deposited on the fine mesh become the ones that
the same points would have deposited on the coarse mesh.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from nomad_dask.backends.kernel_parts import NODES_BEFORE, RATIO, SPLINE_WEIGHTS, coarse_shape

# Without `fastmath`: the alignment of arrays in memory decides which of two loops runs, and with it they would sum in
# different orders.


@njit(nogil=True, cache=True)
def _restrict(fine, coarse):  # type: ignore[no-untyped-def]
    """Restrict the middle axis: write its coarse nodes."""
    n, taps, w = fine.shape[1], SPLINE_WEIGHTS.size, SPLINE_WEIGHTS
    for o in range(fine.shape[0]):
        for c in range(coarse.shape[1]):
            first = RATIO * c - 2 * NODES_BEFORE
            start, stop = max(-first, 0), min(n - first, taps)
            if stop - start == taps:
                for i in range(fine.shape[2]):
                    coarse[o, c, i] = (
                        w[0] * (fine[o, first, i] + fine[o, first + 12, i])
                        + w[1] * (fine[o, first + 1, i] + fine[o, first + 11, i])
                        + w[2] * (fine[o, first + 2, i] + fine[o, first + 10, i])
                        + w[3] * (fine[o, first + 3, i] + fine[o, first + 9, i])
                        + w[4] * (fine[o, first + 4, i] + fine[o, first + 8, i])
                        + w[5] * (fine[o, first + 5, i] + fine[o, first + 7, i])
                        + w[6] * fine[o, first + 6, i]
                    )
            else:
                for i in range(fine.shape[2]):
                    total = np.float32(0)
                    for tap in range(start, stop):
                        total += w[tap] * fine[o, first + tap, i]
                    coarse[o, c, i] = total


@njit(nogil=True, cache=True)
def _prolong(coarse, fine):  # type: ignore[no-untyped-def]
    """Apply the transpose of `_restrict`: four coarse nodes reach the first of four fine nodes, three the others."""
    w = SPLINE_WEIGHTS
    for o in range(fine.shape[0]):
        for f in range(fine.shape[1]):
            c, phase = f // RATIO, f % RATIO
            if phase == 0:
                for i in range(fine.shape[2]):
                    fine[o, f, i] = w[0] * (coarse[o, c, i] + coarse[o, c + 3, i]) + w[4] * (
                        coarse[o, c + 1, i] + coarse[o, c + 2, i]
                    )
            else:
                w1, w2, w3 = w[8 + phase], w[4 + phase], w[phase]
                for i in range(fine.shape[2]):
                    fine[o, f, i] = w1 * coarse[o, c + 1, i] + w2 * coarse[o, c + 2, i] + w3 * coarse[o, c + 3, i]


def to_coarse(fine: np.ndarray) -> np.ndarray:
    """Return the density float32 on the coarse mesh from that on the fine mesh."""
    for axis, size in enumerate(coarse_shape(fine.shape)):
        fine = _apply_along(_restrict, fine, axis, size)
    return fine


def to_fine(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the coefficients of the same function on the fine mesh from those on the coarse mesh."""
    for axis in reversed(range(len(shape))):  # the longest loops last, along contiguous rows
        coarse = _apply_along(_prolong, coarse, axis, shape[axis])
    return coarse


def _apply_along(kernel: object, array: np.ndarray, axis: int, size: int) -> np.ndarray:
    shape = array.shape
    out = np.empty((*shape[:axis], size, *shape[axis + 1 :]), np.float32)
    inner = math.prod(shape[axis + 1 :])
    kernel(array.reshape(-1, shape[axis], inner), out.reshape(-1, size, inner))  # type: ignore[operator]
    return out
