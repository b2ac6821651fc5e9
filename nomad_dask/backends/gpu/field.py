"""The field on the device: charges to a mesh, convolved with K(r) = 1/(1+r²), and read back.

As `backends.cpu.field`, but charges are added up as whole numbers, so that the order in which threads add
them does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import MAX_BLOCKS, Runtime, Transform, count_blocks
from nomad_dask.backends.mesh import DIRECT_PAIRS, Mesh, kernel_transform

_SECONDS_A_PAIR = 1e-12
_SECONDS_A_NODE = 3e-11  # of the padded mesh: two transforms, and what comes between
# Whole numbers of own and of remote charges stay below this many bits together.
_SUM_BITS = 61

FRAME = np.dtype(
    [
        ("origin", np.float32, 3),
        ("inverse", np.float32),
        ("upper", np.float32, 3),
        ("shape", np.int32, 3),
        ("stride", np.int64, 3),
        ("padded_stride", np.int64, 3),
        ("scale", np.float32),
        ("inverse_scale", np.float32),
    ],
    align=True,
)
"""`struct Frame` of the kernels: how positions become places on the mesh."""


def padded_shape(mesh: Mesh) -> tuple[int, ...]:
    """Return the shape at which the mesh is transformed: doubled, so that nothing wraps around."""
    return tuple(2 * size for size in mesh.shape)


def fixed_point_scale(charge: float) -> float:
    """Return the power of two by which charges are multiplied before they are rounded to whole numbers.

    Parameters
    ----------
    charge : float
        Sum of all charges, own and remote: no node gets more.
    """
    return 2.0 ** (_SUM_BITS - math.ceil(math.log2(max(charge, 1e-12))))


def frame_of(mesh: Mesh, scale: float) -> np.ndarray:
    """Return the frame (1,) of `FRAME` of a mesh, for charges in fixed point at `scale`."""
    frame = np.zeros(1, FRAME)
    dim, padded = len(mesh.shape), padded_shape(mesh)
    frame["origin"][0, :dim] = mesh.origin
    frame["inverse"] = np.float32(1 / mesh.spacing)
    frame["upper"][0, :dim] = [size - 2.001 for size in mesh.shape]  # the last place with a full stencil
    frame["shape"][0, :dim] = mesh.shape
    frame["stride"][0, :dim] = [math.prod(mesh.shape[a + 1 :]) for a in range(dim)]
    frame["padded_stride"][0, :dim] = [math.prod(padded[a + 1 :]) for a in range(dim)]
    frame["scale"], frame["inverse_scale"] = scale, 1 / scale
    return frame


def sums_directly(n_points: int, n_charges: int, n_nodes: int, dim: int) -> bool:
    """Return whether the plain sum over all pairs is to be preferred to the mesh.

    It is for few pairs, because it is exact, and where an estimate of the time says so: sparse maps in three
    dimensions have far more nodes than points.

    Parameters
    ----------
    n_points, n_charges : int
        Own rows, and all charges, own rows included.
    n_nodes : int
        Nodes of the mesh before padding.
    dim : int
    """
    pairs = n_points * n_charges
    return pairs <= DIRECT_PAIRS or pairs * _SECONDS_A_PAIR < n_nodes * (1 << dim) * _SECONDS_A_NODE


@dataclass(frozen=True)
class _Buffers:
    """What one mesh shape needs on the device."""

    own: Any
    remote: Any
    transform: Transform
    kernel: Any


class DeviceField:
    """Meshes, transforms and kernel of the mesh that is laid over the map now.

    Buffers are kept until the mesh gets another shape; where it lies is in `frame`, in device memory, so
    that launches that were captured stay valid while it moves.

    Parameters
    ----------
    dim : int
    runtime : Runtime
    frame : array of uint8 (FRAME.itemsize,)
        Where the kernels find the frame. Whoever owns it writes it, with `frame_of`.
    """

    def __init__(self, dim: int, runtime: Runtime, frame: Any) -> None:
        self._dim = dim
        self._runtime = runtime
        self._shape: tuple[int, ...] = ()
        self._spacing = 0.0
        self._buffers: _Buffers | None = None
        self._own_partials = runtime.xp.zeros(MAX_BLOCKS, np.float64)
        self.frame = frame

    @property
    def potential(self) -> Any:
        """The convolved charges, float32 (padded shape): coefficients of the splines that make the potential."""
        assert self._buffers is not None  # noqa: S101 - `lay` comes first
        return self._buffers.transform.potential

    def lay(self, mesh: Mesh) -> bool:
        """Make buffers and kernel fit a mesh; return whether arrays moved, which ends captured launches."""
        moved = self._buffers is None or mesh.shape != self._shape
        if moved:
            self._buffers = None  # before the new ones are asked for: both may not fit
            self._shape = mesh.shape
            xp, padded = self._runtime.xp, padded_shape(mesh)
            transform = self._runtime.transform(padded)
            self._buffers = _Buffers(
                own=xp.zeros(mesh.shape, np.int64),
                remote=xp.zeros(mesh.shape, np.int64),
                transform=transform,
                kernel=xp.zeros(transform.spectrum.shape, np.float32),
            )
        if moved or mesh.spacing != self._spacing:
            self._spacing = mesh.spacing
            self._write_kernel()
        return moved

    def _write_kernel(self) -> None:
        assert self._buffers is not None  # noqa: S101 - made by `lay`
        transform = self._buffers.transform

        def rfftn(values: Any) -> Any:
            transform.real[...] = values
            transform.forward()
            transform.real.fill(0)
            return transform.spectrum

        self._buffers.kernel[...] = kernel_transform(
            tuple(2 * s for s in self._shape), self._spacing, xp=self._runtime.xp, rfftn=rfftn
        )

    def solve(self, points: Any, weights: Any, remote: Any, remote_weights: Any) -> None:
        """Fill `potential` from own points and remote charges, all on the device.

        Parameters
        ----------
        points : array of float32 (n, dim)
        weights : array of float32 (n,) or None
            None for weight 1 each.
        remote : array of float32 (m, dim)
        remote_weights : array of float32 (m,)
        """
        assert self._buffers is not None  # noqa: S101 - `lay` comes first
        b, launch, dim = self._buffers, self._runtime.launch, self._dim
        b.own.fill(0)
        launch("deposit", dim, len(points), points, weights, np.int64(len(points)), self.frame, b.own)
        if len(remote):
            b.remote.fill(0)
            launch("deposit", dim, len(remote), remote, remote_weights, np.int64(len(remote)), self.frame, b.remote)
        n_nodes, others = b.own.size, b.remote if len(remote) else None
        launch("charges", dim, n_nodes, b.own, others, np.int64(n_nodes), self.frame, b.transform.real)
        b.transform.forward()
        n_waves = b.kernel.size
        launch("multiply", dim, n_waves, b.transform.spectrum, b.kernel, np.int64(n_waves))
        b.transform.inverse()

    def sum_own(self, offset: float, out: Any) -> None:
        """Write Σ_i U(y_i) + offset over own points of weight 1 into `out` (1,) float64; after `solve`.

        It is summed over nodes: charges and potential meet in the same splines.
        """
        assert self._buffers is not None  # noqa: S101 - `lay` comes first
        own, n_nodes = self._buffers.own, self._buffers.own.size
        self._runtime.launch(
            "mesh_z", self._dim, n_nodes, own, np.int64(n_nodes), self.frame, self.potential, self._own_partials
        )
        self._runtime.launch(
            "total", self._dim, 1, self._own_partials, np.int64(count_blocks(n_nodes)), np.float64(offset), out
        )

    def read(self, points: Any, potential: Any, repulsion: Any) -> None:
        """Write U (n,) and R = −½∇U (n, dim) at points; after `solve`."""
        n = len(points)
        self._runtime.launch(
            "read_field", self._dim, n, points, np.int64(n), self.frame, self.potential, potential, repulsion
        )


class DirectField:
    """The plain sum over all pairs: exact, and quicker than a mesh for few points far apart."""

    def __init__(self, dim: int, runtime: Runtime) -> None:
        self._dim = dim
        self._runtime = runtime
        self._charges: Any = None
        self._weights: Any = None

    def read(self, points: Any, weights: Any, remote: Any, remote_weights: Any, potential: Any, repulsion: Any) -> None:
        """Write U (n,) and R = −½∇U (n, dim) at own points; arguments as those of `DeviceField.solve`."""
        n, m = len(points), len(points) + len(remote)
        if self._charges is None or len(self._charges) != m:
            self._charges = self._runtime.xp.zeros((m, self._dim), np.float32)
            self._weights = self._runtime.xp.zeros(m, np.float32)
        self._charges[:n] = points
        self._weights[:n] = np.float32(1) if weights is None else weights
        if m > n:
            self._charges[n:] = remote
            self._weights[n:] = remote_weights
        self._runtime.launch(
            "direct", self._dim, n, points, np.int64(n), self._charges, self._weights, np.int64(m), potential, repulsion
        )
