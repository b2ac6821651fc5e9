"""A mesh four times coarser, and the ways there and back; both exact, because cubic B-splines are nested.

A spline of twice the spacing is a sum of five of the single one, with weights 1, 4, 6, 4, 1 eighths. So
coefficients on the coarse mesh become those of the same function on the fine one, and, the other way round, what
points have deposited on the fine mesh becomes what they would have deposited on the coarse one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.backends.mesh import Mesh

RATIO = 4
"""Spacing of the coarse mesh in that of the fine one."""

# Without `fastmath`: where arrays lie in memory decides which of two loops runs, and they would sum in other orders.


@njit(nogil=True, cache=True)
def _halve(fine, coarse):  # type: ignore[no-untyped-def]
    """Write the coarse nodes of the middle axis; node c = 1 lies on fine node 0."""
    n = fine.shape[1]
    eighth, half, most = np.float32(0.125), np.float32(0.5), np.float32(0.75)
    for o in range(fine.shape[0]):
        for c in range(coarse.shape[1]):
            at = 2 * c - 2
            for i in range(fine.shape[2]):
                total = most * fine[o, at, i] if 0 <= at < n else np.float32(0)
                if 0 <= at - 1 < n:
                    total += half * fine[o, at - 1, i]
                if 0 <= at + 1 < n:
                    total += half * fine[o, at + 1, i]
                if 0 <= at - 2 < n:
                    total += eighth * fine[o, at - 2, i]
                if 0 <= at + 2 < n:
                    total += eighth * fine[o, at + 2, i]
                coarse[o, c, i] = total


@njit(nogil=True, cache=True)
def _double(coarse, fine):  # type: ignore[no-untyped-def]
    """Do the transpose of `_halve`."""
    eighth, half, most = np.float32(0.125), np.float32(0.5), np.float32(0.75)
    for o in range(fine.shape[0]):
        for f in range(0, fine.shape[1], 2):
            c = f // 2 + 1
            for i in range(fine.shape[2]):
                fine[o, f, i] = eighth * (coarse[o, c - 1, i] + coarse[o, c + 1, i]) + most * coarse[o, c, i]
        for f in range(1, fine.shape[1], 2):
            c = f // 2 + 1
            for i in range(fine.shape[2]):
                fine[o, f, i] = half * (coarse[o, c, i] + coarse[o, c + 1, i])


def _halved(n: int) -> int:
    """Return the nodes that carry all splines within a mesh of `n` nodes, at twice the spacing."""
    return n // 2 + 3


def coarse_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the nodes of the coarse mesh."""
    return tuple(_halved(_halved(n)) for n in shape)


def coarse_mesh(mesh: Mesh) -> Mesh:
    """Return where the coarse mesh lies."""
    # A halved mesh begins two of the fine nodes before the fine one, the next two of the halved ones before that.
    return Mesh(tuple(o - 6 * mesh.spacing for o in mesh.origin), RATIO * mesh.spacing, coarse_shape(mesh.shape))


def to_coarse(fine: np.ndarray) -> np.ndarray:
    """Return deposits on the coarse mesh, float32, from those on the fine mesh."""
    for axis in range(fine.ndim):
        for _ in range(2):
            fine = _along(_halve, fine, axis, _halved(fine.shape[axis]))
    return fine


def to_fine(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the coefficients of the same function on the fine mesh, from those on the coarse one."""
    for axis in reversed(range(len(shape))):  # the long loops last, along axes whose rows are whole
        for size in (_halved(shape[axis]), shape[axis]):
            coarse = _along(_double, coarse, axis, size)
    return coarse


def _along(kernel: object, array: np.ndarray, axis: int, size: int) -> np.ndarray:
    shape = array.shape
    out = np.empty((*shape[:axis], size, *shape[axis + 1 :]), np.float32)
    inner = int(np.prod(shape[axis + 1 :]))
    kernel(array.reshape(-1, shape[axis], inner), out.reshape(-1, size, inner))  # type: ignore[operator]
    return out
