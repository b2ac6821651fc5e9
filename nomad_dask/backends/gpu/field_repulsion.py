"""Repulsion by the field of all charges: from a mesh, or by a direct sum where that is preferable."""

from __future__ import annotations

import math
from typing import Any

from nomad_dask.backends.gpu.device_shard import DeviceShard, RowForces
from nomad_dask.backends.gpu.direct_sum import DirectSum, prefers_direct_sum
from nomad_dask.backends.gpu.mesh_field import MeshField
from nomad_dask.backends.gpu.mesh_levels import padded_shape
from nomad_dask.backends.kernel_parts import choose_field_mesh
from nomad_dask.backends.mesh import MAX_MESH_NODES, Mesh, clamped_box


class FieldRepulsion:
    """Chooses a mesh for each epoch, and evaluates the field.

    Parameters
    ----------
    shard : DeviceShard
    mesh_spacing : float

    Attributes
    ----------
    mesh_field : MeshField
    """

    def __init__(self, shard: DeviceShard, mesh_spacing: float) -> None:
        self._shard = shard
        self._spacing = mesh_spacing
        self._direct_sum = DirectSum(shard.dim, shard.runtime)
        self._rows: RowForces | None = None
        self.mesh_field = MeshField(shard.dim, shard.runtime, shard.inputs.frame)

    @property
    def rows(self) -> RowForces:
        """U and R of every row; allocated on first use, because steps by mesh do not need them."""
        if self._rows is None:
            self._rows = RowForces.allocate(self._shard.n_rows, self._shard.dim, self._shard.runtime)
        return self._rows

    def choose_mesh(self) -> Mesh | None:
        """Return the mesh that covers the map, with its arrays allocated; None if a direct sum is preferable."""
        shard = self._shard
        low, high = shard.report.host_bounds()
        low, high = clamped_box(low, high, shard.report.host_sample(), shard.remote.bounds)
        mesh = choose_field_mesh(low, high, self._spacing, MAX_MESH_NODES)
        n_charges = shard.n_rows + len(shard.remote.points)
        if prefers_direct_sum(shard.n_rows, n_charges, math.prod(padded_shape(mesh.shape))):
            return None
        self.mesh_field.set_mesh(mesh)
        return mesh

    def evaluate(self, mesh: Mesh | None, weights: Any, remote_weights: Any) -> None:
        """Write U and R of all rows to `rows`.

        Parameters
        ----------
        mesh : Mesh or None
            From `choose_mesh`.
        weights : array of float32 (n_rows,) or None
            Charges of the rows; None for 1.
        remote_weights : array of float32 (m,)
            Charges of the remote points.
        """
        positions, remote, rows = self._shard.points.positions, self._shard.remote.points, self.rows
        if mesh is None:
            self._direct_sum.evaluate(positions, weights, remote, remote_weights, rows.potential, rows.repulsion)
        else:
            self.mesh_field.solve(positions, weights, remote, remote_weights)
            self.mesh_field.read(positions, rows.potential, rows.repulsion)
