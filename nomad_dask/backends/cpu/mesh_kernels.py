"""Numba kernels between points and mesh: cubic B-splines, in two or three dimensions.

The number of dimensions is a constant of each compiled kernel (`mesh_kernels(dim)`), so that its loops
are unrolled.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nomad_dask.backends.mesh import Mesh


class MeshFrame(NamedTuple):
    """Coordinates of a mesh, as the kernels take them.

    Attributes
    ----------
    origin : ndarray of float32 (dim,)
        Position of the first node.
    inverse_spacing : float32
        Turns map units into mesh units.
    upper : ndarray of float32 (dim,)
        `Mesh.upper`, to which points beyond are clamped, as those below 1 are to 1.
    strides : ndarray of int64 (dim,)
        Distance of neighboring nodes along each axis in the flat mesh.
    """

    origin: np.ndarray
    inverse_spacing: np.float32
    upper: np.ndarray
    strides: np.ndarray


def mesh_frame(mesh: Mesh) -> MeshFrame:
    """Return the coordinates of a mesh."""
    return MeshFrame(
        np.asarray(mesh.origin, np.float32),
        np.float32(1 / mesh.spacing),
        np.array(mesh.upper, np.float32),
        flat_strides(mesh.shape),
    )


def flat_strides(shape: tuple[int, ...]) -> np.ndarray:
    """Return the strides int64 of a C-ordered array, in elements."""
    return np.array([math.prod(shape[a + 1 :]) for a in range(len(shape))], np.int64)


class MeshKernels(NamedTuple):
    """The compiled kernels for one number of dimensions."""

    extent: Any
    count_bands: Any
    sort_bands: Any
    select: Any
    deposit: Any
    gather: Any


@lru_cache
def mesh_kernels(dim: int) -> MeshKernels:
    """Compile (or load from the cache) the kernels for maps of `dim` dimensions."""
    return MeshKernels(
        _extent_kernel(dim),
        _count_bands,
        _sort_bands_kernel(dim),
        _select_kernel(dim),
        _deposit_kernel(dim),
        _gather_kernel(dim),
    )


def _extent_kernel(dim: int) -> Any:
    @njit(nogil=True, cache=True)
    def extent(points, low, high):  # type: ignore[no-untyped-def]
        """Write the corners of the points' box; NumPy's reduction along short rows is ten times slower."""
        for a in range(dim):
            low[a] = points[0, a]
            high[a] = points[0, a]
        for i in range(points.shape[0]):
            for a in range(dim):
                low[a] = min(low[a], points[i, a])
                high[a] = max(high[a], points[i, a])

    return extent


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _count_bands(points, start, stop, frame, height, counts):  # type: ignore[no-untyped-def]
    """Count the points of each band of `height` mesh rows."""
    origin, inverse, upper, _ = frame
    for i in range(start, stop):
        u = min(max((points[i, 0] - origin[0]) * inverse, np.float32(1)), upper[0])
        counts[int(u) // height] += 1


def _sort_bands_kernel(dim: int) -> Any:
    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def sort_bands(points, weights, start, stop, frame, height, offsets, ordered):  # type: ignore[no-untyped-def]
        """Write the points in mesh units, and their weights if any, from the offset of their band on."""
        origin, inverse, upper, _ = frame
        weighted = weights.size > 0
        for i in range(start, stop):
            u = min(max((points[i, 0] - origin[0]) * inverse, np.float32(1)), upper[0])
            band = int(u) // height
            to = offsets[band]
            offsets[band] = to + 1
            ordered[to, 0] = u
            for a in range(1, dim):
                ordered[to, a] = min(max((points[i, a] - origin[a]) * inverse, np.float32(1)), upper[a])
            if weighted:
                ordered[to, dim] = weights[i]

    return sort_bands


def _select_kernel(dim: int) -> Any:
    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def select(points, weights, frame, block_bits, block_strides, marks, ordered):  # type: ignore[no-untyped-def]
        """Write the points that lie in marked blocks, as `deposit` takes them; return their number."""
        origin, inverse, upper, _ = frame
        n = 0
        for i in range(points.shape[0]):
            block = 0
            for a in range(dim):
                ordered[n, a] = min(max((points[i, a] - origin[a]) * inverse, np.float32(1)), upper[a])
                block += (int(ordered[n, a]) >> block_bits) * block_strides[a]
            ordered[n, dim] = weights[i]
            n += marks[block]
        return n

    return select


def _deposit_kernel(dim: int) -> Any:
    rows_of_stencil = 4 ** (dim - 1)

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def deposit(ordered, start, stop, strides, mesh):  # type: ignore[no-untyped-def]
        """Add points `start` to `stop`, in mesh units, to the flat mesh."""
        weighted = ordered.shape[1] > dim
        spline = np.empty((dim, 4), np.float32)
        sixth = np.float32(1 / 6)
        one, three, four, six = np.float32(1), np.float32(3), np.float32(4), np.float32(6)
        for i in range(start, stop):
            base = 0
            for a in range(dim):
                u = ordered[i, a]
                node = int(u)
                t = u - np.float32(node)
                base += (node - 1) * strides[a]
                spline[a, 0] = (one - t) * (one - t) * (one - t) * sixth
                spline[a, 1] = ((three * t - six) * t * t + four) * sixth
                spline[a, 2] = (((three - three * t) * t + three) * t + one) * sixth
                spline[a, 3] = t * t * t * sixth
            weight = ordered[i, dim] if weighted else one
            w0 = spline[dim - 1, 0] * weight
            w1 = spline[dim - 1, 1] * weight
            w2 = spline[dim - 1, 2] * weight
            w3 = spline[dim - 1, 3] * weight
            for r in range(rows_of_stencil):
                if dim == 2:
                    at = base + r * strides[0]
                    p = spline[0, r]
                else:
                    at = base + (r // 4) * strides[0] + (r % 4) * strides[1]
                    p = spline[0, r // 4] * spline[1, r % 4]
                mesh[at] += p * w0
                mesh[at + 1] += p * w1
                mesh[at + 2] += p * w2
                mesh[at + 3] += p * w3

    return deposit


def _gather_kernel(dim: int) -> Any:
    rows_of_stencil = 4 ** (dim - 1)

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def gather(points, start, stop, frame, mesh, potential, gradient):  # type: ignore[no-untyped-def]
        """Read the potential and its gradient (per map unit) at points; return the potential's sum."""
        origin, inverse, upper, strides = frame
        spline = np.empty((dim, 4), np.float32)
        slope = np.empty((dim, 4), np.float32)
        sixth, half = np.float32(1 / 6), np.float32(0.5)
        one, two, three, four, six = np.float32(1), np.float32(2), np.float32(3), np.float32(4), np.float32(6)
        total: Any = 0.0
        for i in range(start, stop):
            base = 0
            for a in range(dim):
                u = min(max((points[i, a] - origin[a]) * inverse, one), upper[a])
                node = int(u)
                t = u - np.float32(node)
                base += (node - 1) * strides[a]
                s = one - t
                spline[a, 0] = s * s * s * sixth
                spline[a, 1] = ((three * t - six) * t * t + four) * sixth
                spline[a, 2] = (((three - three * t) * t + three) * t + one) * sixth
                spline[a, 3] = t * t * t * sixth
                slope[a, 0] = -s * s * half
                slope[a, 1] = (three * t - four) * t * half
                slope[a, 2] = ((two - three * t) * t + one) * half
                slope[a, 3] = t * t * half
            w0, w1, w2, w3 = spline[dim - 1, 0], spline[dim - 1, 1], spline[dim - 1, 2], spline[dim - 1, 3]
            d0, d1, d2, d3 = slope[dim - 1, 0], slope[dim - 1, 1], slope[dim - 1, 2], slope[dim - 1, 3]
            value = np.float32(0)
            along0, along1, along_last = np.float32(0), np.float32(0), np.float32(0)
            for r in range(rows_of_stencil):
                at = base + (r * strides[0] if dim == 2 else (r // 4) * strides[0] + (r % 4) * strides[1])
                m0, m1, m2, m3 = mesh[at], mesh[at + 1], mesh[at + 2], mesh[at + 3]
                inner = (w0 * m0 + w1 * m1) + (w2 * m2 + w3 * m3)
                inner_slope = (d0 * m0 + d1 * m1) + (d2 * m2 + d3 * m3)
                if dim == 2:
                    value += spline[0, r] * inner
                    along0 += slope[0, r] * inner
                    along_last += spline[0, r] * inner_slope
                else:
                    p = spline[0, r // 4] * spline[1, r % 4]
                    value += p * inner
                    along0 += slope[0, r // 4] * spline[1, r % 4] * inner
                    along1 += spline[0, r // 4] * slope[1, r % 4] * inner
                    along_last += p * inner_slope
            potential[i] = value
            gradient[i, 0] = along0 * inverse
            if dim == 3:
                gradient[i, 1] = along1 * inverse
            gradient[i, dim - 1] = along_last * inverse
            total += value
        return total

    return gather
