"""Convolution of a mesh with K(r) = 1/(1+r²), or with its near or far part, by FFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

import numpy as np
import scipy.fft

from nomad_dask.backends.cpu.mesh_levels import RATIO
from nomad_dask.backends.mesh import kernel_transform

REACH = 24
"""Nodes after which the near part is negligible."""
# The near part of level L is what K·e^(−rate·(1+r²)) has beyond the levels before, with this rate per squared spacing
# of the level. Of the rest the mesh of the next level holds all but 10⁻⁴.
_RATE = 0.014


@dataclass(frozen=True)
class Kernel:
    """The part of K that one level computes, on a periodic mesh.

    Attributes
    ----------
    level : int
        Number of finer meshes, each with `mesh_levels.RATIO` times the nodes along each axis; they compute the nearer
        parts.
    part : {'near', 'rest'}
        The part that ends within `REACH` nodes, or all that is left.
    padded : tuple of int
        Nodes of the periodic mesh along each axis.
    spacing : float
        Spacing of this mesh.
    """

    level: int
    part: Literal["near", "rest"]
    padded: tuple[int, ...]
    spacing: float

    def transform(self) -> np.ndarray:
        """Return its transform, divided by that of the splines."""
        return np.asarray(kernel_transform(self.padded, self.spacing, self._of_squared))

    def _of_squared(self, squared: np.ndarray) -> np.ndarray:
        """Return its values at squared distances.

        1/(1+r²) is the integral of e^(−t·(1+r²)) over all t, and each part is that over an interval of t.
        """
        beyond = 1 + squared
        rate = np.float32(_RATE / self.spacing**2)
        fraction = np.exp(-rate * beyond) if self.part == "near" else np.ones_like(beyond)
        if self.level > 0:
            finer_rate = rate * np.float32(RATIO**2)
            fraction *= -np.expm1((rate - finer_rate if self.part == "near" else -finer_rate) * beyond)
        return np.asarray(fraction / beyond)


class KernelTransforms:
    """Transforms of kernels, shared by the shards of a process for as long as one of them uses them.

    Shards lie in the same map, so their meshes mostly have one shape, and a transform may be larger than a mesh.
    """

    def __init__(self) -> None:
        self._transforms: WeakValueDictionary[Kernel, np.ndarray] = WeakValueDictionary()

    def get(self, kernel: Kernel) -> np.ndarray:
        """Return the transform of a kernel."""
        transform = self._transforms.get(kernel)
        if transform is None:
            transform = self._transforms[kernel] = kernel.transform()
        return transform


def convolve(
    density: np.ndarray, padded: Sequence[int], transform: np.ndarray, kept: Sequence[slice], workers: int
) -> np.ndarray:
    """Convolve a mesh with a kernel on a periodic mesh; lines of zeros and lines not kept are mostly left out.

    Parameters
    ----------
    density : ndarray of float32
        No larger than the periodic mesh.
    padded : sequence of int
        Nodes of the periodic mesh.
    transform : ndarray
        The kernel's, from `Kernel.transform`.
    kept : sequence of slice
        Part of each axis to return.
    workers : int
        Threads.
    """
    last = density.ndim - 1
    spectrum = density
    for axis in reversed(range(density.ndim)):
        forward = scipy.fft.rfft if axis == last else scipy.fft.fft
        spectrum = forward(spectrum, padded[axis], axis=axis, workers=workers)
    spectrum *= transform
    for axis in range(last):
        spectrum = scipy.fft.ifft(spectrum, axis=axis, overwrite_x=True, workers=workers)
        spectrum = spectrum[(slice(None),) * axis + (kept[axis],)]
    potential = scipy.fft.irfft(spectrum, padded[last], axis=last, workers=workers)
    return np.asarray(potential[..., kept[last]])


def fast_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    """Return lengths no less than these that are fast to transform."""
    return tuple(int(scipy.fft.next_fast_len(n, real=True)) for n in lengths)
