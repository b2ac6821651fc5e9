"""Convolution of a mesh with K(r) = 1/(1+r²), or with its near or far part, by FFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

import numpy as np
import scipy.fft

from nomad_dask.backends.cpu.multigrid import RATIO
from nomad_dask.backends.mesh import kernel_transform

REACH = 24
"""Nodes after which the near part is as good as over."""
# The near part of level L is what K·e^(−rate·(1+r²)) has beyond the levels before, with this rate per squared spacing
# of the level. Of the rest the mesh of the next level holds all but 10⁻⁴.
_RATE = 0.014


@dataclass(frozen=True)
class Kernel:
    """What a level takes of K, on a periodic mesh.

    Attributes
    ----------
    level : int
        How many finer meshes there are, each with `levels.RATIO` times the nodes along each axis; they have taken
        what is nearer.
    part : {'near', 'rest'}
        What ends within `REACH` nodes, or all that is left.
    padded : tuple of int
        Nodes of the periodic mesh along each axis.
    spacing : float
        Of this mesh.
    """

    level: int
    part: Literal["near", "rest"]
    padded: tuple[int, ...]
    spacing: float

    def transform(self) -> np.ndarray:
        """Return its transform, divided by that of the splines; made once while anybody has it."""
        transform = _transforms.get(self)
        if transform is None:
            made = kernel_transform(self.padded, self.spacing, self._of_squared)
            transform = _transforms[self] = np.asarray(made)
        return transform

    def _of_squared(self, squared: np.ndarray) -> np.ndarray:
        """Return it of squared distances: 1/(1+r²) is the sum of e^(−t·(1+r²)) over all t, and takes a stretch of t."""
        beyond = 1 + squared
        rate = np.float32(_RATE / self.spacing**2)
        share = np.exp(-rate * beyond) if self.part == "near" else np.ones_like(beyond)
        if self.level > 0:
            taken = rate * np.float32(RATIO**2)
            share *= -np.expm1((rate - taken if self.part == "near" else -taken) * beyond)
        return np.asarray(share / beyond)


# Shards of one process lie in the same map, so their meshes mostly have one shape. A transform, which may be larger
# than a mesh, is kept once for all of them as long as one has it.
_transforms: WeakValueDictionary[Kernel, np.ndarray] = WeakValueDictionary()


def convolve(
    density: np.ndarray, padded: Sequence[int], transform: np.ndarray, kept: Sequence[slice], workers: int
) -> np.ndarray:
    """Convolve a mesh with a kernel on a periodic one; only what is occupied or kept is transformed, where it can be.

    Parameters
    ----------
    density : ndarray of float32
        No larger than the periodic mesh.
    padded : sequence of int
        Nodes of the periodic mesh.
    transform : ndarray
        Of `Kernel.transform`.
    kept : sequence of slice
        What to return of each axis.
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
    """Return lengths no less than these that are quick to transform."""
    return tuple(int(scipy.fft.next_fast_len(n, real=True)) for n in lengths)
