"""Convolution of a mesh with K(r) = 1/(1+r²), or with a part of it, by FFT."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import scipy.fft

from nomad_dask.backends.kernel_parts import Kernel


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
