"""The mesh over a map: its position and spacing, and the transform of the kernel on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# The mesh of a larger map gets a wider spacing, so that its memory is bounded.
MAX_MESH_NODES = 1 << 26
# Up to this many pairs the plain sum is as fast as a mesh, and exact where points are few and far apart.
DIRECT_PAIRS = 1 << 20
_MIN_NODES_ACROSS = 40
# But never finer than a 32nd of the spacing: K is then flat between nodes, and a mesh would show rounding errors only.
_MAX_STEPS = 20
_MARGIN = 3
# From this many sampled rows on, a few outlying points do not enlarge the mesh: it covers four times the box of 99.8 %
# of the sample.
_MIN_ROWS_TO_CLAMP = 1000
_SAMPLE_ROWS = 5000
_OUTLIER_FRACTION = 0.001


@dataclass(frozen=True)
class Mesh:
    """A regular mesh over the map.

    Attributes
    ----------
    origin : tuple of float
        Position of node (0, 0[, 0]).
    spacing : float
        Distance of neighboring nodes, in map units.
    shape : tuple of int
        Nodes along each axis.
    """

    origin: tuple[float, ...]
    spacing: float
    shape: tuple[int, ...]

    @property
    def upper(self) -> tuple[float, ...]:
        """Last position with a full stencil along each axis, in mesh units; points beyond are clamped to it.

        A float32, as the kernels take it, and less than ``size - 2``, whose stencil would end outside the mesh.
        """
        return tuple(_last_position(size) for size in self.shape)


def _last_position(size: int) -> float:
    position = np.float32(size - 2.001)
    # Of more than 32,768 nodes it is rounded up.
    return float(position if position < size - 2 else np.nextafter(position, np.float32(0)))


def choose_mesh(low: np.ndarray, high: np.ndarray, spacing: float, max_nodes: int) -> Mesh:
    """Return a mesh over the box from `low` to `high` (dim,).

    A small map gets a finer mesh, so that it is at least 40 nodes across; one of more than `max_nodes`
    gets a wider one. Spacing and shape change in steps, so that the kernel's transform is rarely recomputed.
    """
    span = np.maximum(high - low, 1e-6)
    steps = math.ceil(4 * math.log2(_MIN_NODES_ACROSS * spacing / float(span.max())))
    steps = min(max(steps, 0), _MAX_STEPS)
    spacing = spacing * 2 ** (-steps / 4)
    nodes = float(np.prod(span / spacing + 2 * _MARGIN))
    if nodes > max_nodes:
        spacing *= 2 ** (math.ceil(4 * math.log2((nodes / max_nodes) ** (1 / span.size))) / 4)
    shape = tuple(_rounded(int(s / spacing) + 2 * _MARGIN) for s in span)
    middle = (low + high) / 2
    origin = tuple(float(m - spacing * (size - 1) / 2) for m, size in zip(middle, shape, strict=True))
    return Mesh(origin, spacing, shape)


def _rounded(nodes: int) -> int:
    """Round up, in steps of a few percent, to a size whose double is fast to transform."""
    import scipy.fft  # half a second, which commands that plan no mesh need not wait

    step = max(4, 2 ** (nodes.bit_length() - 5))
    return int(scipy.fft.next_fast_len(-(-nodes // step) * step, real=True))


def sample_step(n_rows: int) -> int:
    """Return the step between the points of the sample for `clamped_box`."""
    return max(1, n_rows // _SAMPLE_ROWS)


def clamped_box(
    low: np.ndarray, high: np.ndarray, sample: np.ndarray, remote: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (dim,) float64 of the box that the mesh covers.

    A few outlying points do not enlarge it: beyond four times the box of 99.8 % of the points they are
    clamped to its edge.

    Parameters
    ----------
    low, high : ndarray (dim,)
        Corners of the box of all points.
    sample : ndarray (m, dim)
        Every `sample_step`-th point.
    remote : ndarray (r, dim)
        Charges of other shards; the box contains all of them.
    """
    if len(sample) >= _MIN_ROWS_TO_CLAMP:
        outer = int(_OUTLIER_FRACTION * len(sample))
        inner = np.partition(sample, [outer, len(sample) - 1 - outer], axis=0)
        inner_low, inner_high = inner[outer], inner[-1 - outer]
        reach = 2 * np.maximum(inner_high - inner_low, 1e-3)
        low, high = np.maximum(low, inner_low - reach), np.minimum(high, inner_high + reach)
    if len(remote):
        # Axis by axis: NumPy's reduction along short rows is ten times slower.
        low = np.minimum(low, [axis.min() for axis in remote.T])
        high = np.maximum(high, [axis.max() for axis in remote.T])
    return low.astype(np.float64), high.astype(np.float64)


def whole_kernel(squared: Any) -> Any:
    """Return K(r) = 1/(1+r²) of squared distances."""
    return 1 / (1 + squared)


def kernel_transform(
    padded: tuple[int, ...],
    spacing: float,
    kernel: Callable[[Any], Any] = whole_kernel,
    xp: Any = np,
    rfftn: Callable[[Any], Any] | None = None,
) -> Any:
    """Return K̂/b̂² on a periodic mesh: real, float32, in the layout of `scipy.fft.rfftn`.

    Parameters
    ----------
    padded : tuple of int
        Nodes along each axis: twice those of a mesh on which all points interact.
    spacing : float
    kernel : callable
        K of squared distances, in map units.
    xp : module
        NumPy, or the array module of the device on which to compute the transform.
    rfftn : callable, optional
        Real transform of `xp`'s arrays; by default that of SciPy.
    """
    squared = xp.zeros(padded, xp.float32)
    transfer = xp.ones([1] * len(padded), xp.float32)
    for axis, size in enumerate(padded):
        wrapped = xp.minimum(xp.arange(size), size - xp.arange(size)) * spacing
        angles = 2 * np.pi * xp.arange(size) / size
        if axis == len(padded) - 1:
            angles = angles[: size // 2 + 1]
        along = [1] * len(padded)
        along[axis] = -1
        squared += (wrapped**2).astype(xp.float32).reshape(along)
        # Squared, for two splines: one deposits charges, the other reads the potential.
        transfer = transfer * (((4 + 2 * xp.cos(angles)) / 6) ** 2).astype(xp.float32).reshape(along)
    spectrum = (rfftn or _scipy_rfftn)(kernel(squared))
    return xp.ascontiguousarray(spectrum.real / transfer)


def _scipy_rfftn(values: np.ndarray) -> Any:
    import scipy.fft

    return scipy.fft.rfftn(values)
