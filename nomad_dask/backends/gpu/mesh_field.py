"""The field on a mesh: charges are spread to the mesh, convolved with K(r) = 1/(1+r²), and read back.

As `backends.cpu.field`, but charges are added as integers, so that the order of the additions does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.mesh_levels import MeshLevels
from nomad_dask.backends.gpu.runtime import MAX_PARTIALS, Runtime, count_blocks, reduction_threads
from nomad_dask.backends.mesh import Mesh

DEPOSIT_LANES = 4
"""Threads per point in the kernel that adds charges to a mesh."""


@dataclass(frozen=True)
class _MeshBuffers:
    """Arrays of one mesh shape.

    Attributes
    ----------
    own, remote : array of int64 (mesh shape)
        Charges in fixed point.
    levels : MeshLevels
    """

    own: Any
    remote: Any
    levels: MeshLevels


class MeshField:
    """The potential of all charges on a mesh.

    Arrays are kept until the mesh changes its shape. The kernels read its origin from `frame`, so that captured
    launches stay valid when the mesh moves.

    Parameters
    ----------
    dim : int
    runtime : Runtime
    frame : array of uint8 (FRAME.itemsize,)
        The `FRAME` of the current mesh in device memory; its owner writes it.

    Attributes
    ----------
    frame : array of uint8 (FRAME.itemsize,)
    version : int
        Increases when arrays are reallocated, which invalidates captured launches.
    """

    def __init__(self, dim: int, runtime: Runtime, frame: Any) -> None:
        self._dim = dim
        self._runtime = runtime
        self.frame = frame
        self._shape: tuple[int, ...] = ()
        self._spacing = 0.0
        self._allocated: _MeshBuffers | None = None
        self._partials = runtime.xp.zeros(MAX_PARTIALS, np.float64)
        self.version = 0

    @property
    def _buffers(self) -> _MeshBuffers:
        assert self._allocated is not None  # noqa: S101 - `set_mesh` is called first
        return self._allocated

    @property
    def charges(self) -> tuple[Any, Any]:
        """Two int64 meshes for charges in fixed point: of own points, and of others."""
        return self._buffers.own, self._buffers.remote

    @property
    def potential(self) -> Any:
        """The convolved charges, float32 (padded shape): spline coefficients of the potential."""
        return self._buffers.levels.potential

    def set_mesh(self, mesh: Mesh) -> None:
        """Allocate arrays for a mesh of another shape, and compute the kernel for another spacing."""
        reshaped = self._allocated is None or mesh.shape != self._shape
        if reshaped:
            self._allocated = None  # free the old arrays first: both may not fit
            self._shape = mesh.shape
            xp = self._runtime.xp
            self._allocated = _MeshBuffers(
                own=xp.zeros(mesh.shape, np.int64),
                remote=xp.zeros(mesh.shape, np.int64),
                levels=MeshLevels(mesh.shape, self._runtime),
            )
            self.version += 1
        if reshaped or mesh.spacing != self._spacing:
            self._spacing = mesh.spacing
            self._buffers.levels.write_kernels(mesh.spacing)

    def solve(self, points: Any, weights: Any, remote: Any, remote_weights: Any) -> None:
        """Compute `potential` from own points and remote charges, all on the device.

        Parameters
        ----------
        points : array of float32 (n, dim)
        weights : array of float32 (n,) or None
            None for weights of 1.
        remote : array of float32 (m, dim)
        remote_weights : array of float32 (m,)
        """
        own, others = self.charges
        self.deposit(points, weights, own)
        if len(remote):
            self.deposit(remote, remote_weights, others)
        self.convolve(own, others if len(remote) else None)

    def deposit(self, points: Any, weights: Any, charges: Any) -> None:
        """Write the charges of points, in fixed point, to a mesh `charges`, int64; arguments as in `solve`."""
        n = len(points)
        charges.fill(0)
        self._runtime.launch(
            "deposit", self._dim, DEPOSIT_LANES * n, points, weights, np.int64(n), self.frame, charges
        )  # fmt: skip

    def convolve(self, charges: Any, more_charges: Any) -> None:
        """Compute `potential` from charges on the mesh, in fixed point, and others if they are not None."""
        b, n_nodes = self._buffers, self._buffers.own.size
        self._runtime.launch(
            "charges", self._dim, n_nodes, charges, more_charges, np.int64(n_nodes), self.frame, b.levels.charges
        )  # fmt: skip
        b.levels.convolve()

    def sum_potential(self, charges: Any, offset: float, out: Any) -> None:
        """Write Σ_i U(y_i) + offset over points of weight 1 to `out` (1,) float64; call `convolve` first.

        The sum runs over nodes of the mesh `charges` of these points, which is the same: charges and potential use the
        same splines.
        """
        n_nodes = charges.size
        launch, n_threads = self._runtime.launch, reduction_threads(n_nodes)
        launch("mesh_z", self._dim, n_threads, charges, np.int64(n_nodes), self.frame, self.potential, self._partials)
        launch("total", self._dim, 1, self._partials, np.int64(count_blocks(n_threads)), np.float64(offset), out)

    def read(self, points: Any, potential: Any, repulsion: Any) -> None:
        """Write U (n,) and R = −½∇U (n, dim) at points; call `solve` first."""
        n = len(points)
        self._runtime.launch(
            "read_field", self._dim, n, points, np.int64(n), self.frame, self.potential, potential, repulsion
        )
