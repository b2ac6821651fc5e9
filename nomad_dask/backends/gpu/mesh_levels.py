"""The convolution of a mesh with K on the device: in one piece or, on a large mesh, by levels; see `kernel_parts`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime, Transform
from nomad_dask.backends.kernel_parts import RATIO, REACH, SPLINE_WEIGHTS, Kernel, coarse_shape, is_split

LEVELS = np.dtype(
    [
        ("fine_shape", np.int64, 3),
        ("coarse_shape", np.int64, 3),
        ("fine_stride", np.int64, 3),
        ("coarse_stride", np.int64, 3),
        ("weights", np.float32, len(SPLINE_WEIGHTS)),
    ],
    align=True,
)
"""`struct Levels` of the kernels: two successive meshes."""
# Lengths with no other prime factors have kernels of their own in cuFFT.
_FAST_FACTORS = (2, 3, 5, 7)


def level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of the meshes that compute the parts of K, from the mesh itself to the coarsest one."""
    shapes = [shape]
    while is_split(shapes[-1]):
        shapes.append(coarse_shape(shapes[-1]))
    return shapes


def padded_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape at which a mesh is transformed, so that nothing that matters wraps around.

    It is doubled, or longer by the reach of the near part where K is split, and fast to transform.
    """
    return tuple(_fast_length(size + REACH if is_split(shape) else 2 * size) for size in shape)


def padded_strides(shape: tuple[int, ...]) -> list[int]:
    """Return the steps between nodes along each axis in the arrays of a mesh's transform."""
    padded = padded_shape(shape)
    return [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]


def _fast_length(length: int) -> int:
    """Return the next even number without large prime factors."""
    length += length % 2
    while not _is_fast(length):
        length += 2
    return length


def _is_fast(length: int) -> bool:
    for factor in _FAST_FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1


@dataclass(frozen=True)
class _Level:
    """Arrays of one mesh.

    Attributes
    ----------
    shape : tuple of int
    transform : Transform
    kernel : array of float32 (shape of the spectrum)
        The transform of its part of K, divided by the size of the padded mesh: the inverse transform is not scaled.
    to_coarser : array of uint8 (LEVELS.itemsize,) or None
        The `LEVELS` of this mesh and the next one; None for the coarsest.
    """

    shape: tuple[int, ...]
    transform: Transform
    kernel: Any
    to_coarser: Any


class MeshLevels:
    """The meshes of all levels over a mesh of one shape.

    Parameters
    ----------
    shape : tuple of int
    runtime : Runtime
    """

    def __init__(self, shape: tuple[int, ...], runtime: Runtime) -> None:
        self._runtime = runtime
        self._dim = len(shape)
        shapes = level_shapes(shape)
        self._levels = [self._allocate(fine, coarse) for fine, coarse in zip(shapes, [*shapes[1:], None], strict=True)]

    @property
    def charges(self) -> Any:
        """The charges, float32 (padded shape), to be written by the caller; the padding must stay zero."""
        return self._levels[0].transform.real

    @property
    def potential(self) -> Any:
        """The convolved charges, float32 (padded shape)."""
        return self._levels[0].transform.potential

    def write_kernels(self, spacing: float) -> None:
        """Compute the transforms of the parts of K for a spacing of the finest mesh."""
        for number, level in enumerate(self._levels):
            transform = level.transform

            def rfftn(values: Any, transform: Transform = transform) -> Any:
                transform.real[...] = values
                transform.forward()
                transform.real.fill(0)
                return transform.spectrum

            part = Kernel(
                number, "rest" if level.to_coarser is None else "near", transform.real.shape, spacing * RATIO**number
            )
            level.kernel[...] = part.transform(self._runtime.xp, rfftn) / np.float32(transform.real.size)

    def convolve(self) -> None:
        """Compute `potential` from `charges`."""
        launch, dim = self._runtime.launch, self._dim
        pairs = list(pairwise(self._levels))
        for fine, coarse in pairs:
            n, real = math.prod(coarse.shape), coarse.transform.real
            launch("restrict_charges", dim, n, fine.transform.real, fine.to_coarser, np.int64(n), real)
        for level in self._levels:
            level.transform.forward()
            n = level.kernel.size
            launch("multiply", dim, n, level.transform.spectrum, level.kernel, np.int64(n))
            level.transform.inverse()
        for fine, coarse in reversed(pairs):
            n, potential = math.prod(fine.shape), fine.transform.potential
            launch("add_coarse", dim, n, coarse.transform.potential, fine.to_coarser, np.int64(n), potential)

    def _allocate(self, shape: tuple[int, ...], coarse: tuple[int, ...] | None) -> _Level:
        runtime = self._runtime
        transform = runtime.transform(padded_shape(shape))
        kernel = runtime.xp.zeros(transform.spectrum.shape, np.float32)
        return _Level(shape, transform, kernel, None if coarse is None else runtime.upload(_describe(shape, coarse)))


def _describe(fine: tuple[int, ...], coarse: tuple[int, ...]) -> np.ndarray:
    """Return the `LEVELS` of two successive meshes as bytes."""
    levels = np.zeros(1, LEVELS)
    for name, shape in (("fine", fine), ("coarse", coarse)):
        levels[f"{name}_shape"][0, : len(shape)] = shape
        levels[f"{name}_stride"][0, : len(shape)] = padded_strides(shape)
    levels["weights"] = SPLINE_WEIGHTS
    return levels.view(np.uint8)
