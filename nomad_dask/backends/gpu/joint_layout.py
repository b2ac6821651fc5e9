"""Some shards of a joint layout on one device.

Each epoch the positions of all rows are shared, and the charges of all shards are added on the mesh as integers. So
every device computes the same field, once for all of its shards, whichever shards it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nomad_dask.backends.data import EpochResult, StepParams
from nomad_dask.backends.gpu.device_shard import DeviceShard, RowForces
from nomad_dask.backends.gpu.direct_sum import prefers_direct_sum
from nomad_dask.backends.gpu.epoch_inputs import EpochInputs, make_numbers
from nomad_dask.backends.gpu.far_rows import FarRows
from nomad_dask.backends.gpu.layout import GpuShardPoints
from nomad_dask.backends.gpu.mesh_field import MeshField
from nomad_dask.backends.gpu.mesh_levels import padded_shape
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.backends.gpu.readback import EpochReport
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.gpu.step_kernels import (
    measure_attraction_loss,
    move_by_mesh,
    move_by_rows,
    write_partition_sum,
)
from nomad_dask.backends.joint import Communicator, JointShard, RowParts, ShardPoints
from nomad_dask.backends.kernel_parts import choose_field_mesh
from nomad_dask.backends.mesh import MAX_MESH_NODES, Mesh, clamped_box
from nomad_dask.params import Params


class GpuJointLayouts:
    """Joint layouts on the GPU of this process; see `JointLayouts`.

    Parameters
    ----------
    runtime : Runtime
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def communicator_id(self) -> Any:
        """Return the identifier of a new group of GPUs."""
        return self._runtime.communicator_id()

    def open_communicator(self, communicator_id: Any, rank: int, n_members: int) -> Communicator:
        """Join a new group of GPUs; waits, without end, for all other members."""
        return self._runtime.open_communicator(communicator_id, rank, n_members)

    def create_layout(
        self, shards: Sequence[JointShard], parts: RowParts, params: Params, communicator: Communicator
    ) -> GpuJointLayout:
        """Return the joint layout of some shards."""
        n_rows = sum(shard.graph.n_rows for shard in shards)
        with translate_oom(self._runtime, f"the joint layout of {n_rows:,} of {parts.n_rows:,} rows"):
            return GpuJointLayout(shards, parts, params, communicator, self._runtime)


class GpuJointLayout:
    """Some shards of a joint layout; see `JointLayout`.

    Parameters
    ----------
    shards : sequence of JointShard
    parts : RowParts
        The rows of all shards.
    params : Params
    communicator : Communicator
    runtime : Runtime

    Attributes
    ----------
    shards : sequence of ShardPoints
    exchanged_bytes : int
        Bytes that all workers together received in the last epoch.
    """

    def __init__(
        self,
        shards: Sequence[JointShard],
        parts: RowParts,
        params: Params,
        communicator: Communicator,
        runtime: Runtime,
    ) -> None:
        self._runtime, self._communicator, self._parts = runtime, communicator, parts
        self._dim, self._spacing = params.n_components, params.mesh_spacing
        n_total, xp = parts.n_rows, runtime.xp
        self._inputs = EpochInputs(runtime)
        # Z, the box and the sample of all rows, from which every device chooses the same mesh.
        self._whole = EpochReport(n_total, 0, self._dim, runtime)
        self._positions: Any = xp.zeros((n_total, self._dim), np.float32)
        self._partition_sums: Any = xp.zeros(len(parts.owners), np.float64)
        self._far = [FarRows(shard.cross_rows, n_total, self._dim, runtime) for shard in shards]
        self._device_shards = [
            self._load_shard(shard, far, params) for shard, far in zip(shards, self._far, strict=True)
        ]
        self._numbers = [shard.number for shard in shards]
        self._field = MeshField(self._dim, runtime, self._inputs.frame)
        self._charges: list[Any] = []
        self._charges_version = -1
        self._forces: dict[int, RowForces] = {}
        self._is_measured = False
        self.shards: Sequence[ShardPoints] = [GpuShardPoints(shard) for shard in self._device_shards]
        self.exchanged_bytes = 0

    def _load_shard(self, shard: JointShard, far: FarRows, params: Params) -> DeviceShard:
        graph = replace(
            shard.graph,
            cross_indptr=shard.cross_rows.indptr,
            cross_patches=far.targets,
            cross_weights=shard.graph.weights[shard.cross_rows.weight_codes],
        )
        loaded = DeviceShard.from_graph(graph, params, self._parts.n_rows, self._runtime)
        loaded.remote.moments = far.moments
        return replace(loaded, inputs=self._inputs)

    def load(self, shard: int, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Set positions and velocities of one of the shards, both float32 (n_rows, dim)."""
        self._device_shards[shard].points.load(positions, velocity)
        self._is_measured = False

    def start_epoch(self, step: StepParams) -> None:
        """Start to move every row once, in step with the other workers."""
        with translate_oom(self._runtime, f"the joint layout of {self._parts.n_rows:,} rows"):
            if not self._is_measured:
                self._share_positions()
                self._whole.download()
                self._is_measured = True
            self.exchanged_bytes = 0
            mesh = self._choose_mesh()
            self._write_inputs(step, mesh)
            shards = [shard for shard in self._device_shards if shard.n_rows]
            if step.measure_loss:
                for shard in shards:
                    measure_attraction_loss(shard)
            if mesh is None:
                self._step_directly()
            else:
                self._step_by_mesh()
            for shard in shards:
                shard.points.swap()
            self._share_positions()

    def finish_epoch(self, step: StepParams) -> list[EpochResult]:
        """Wait until the epoch is done, and return the results of the shards."""
        self._whole.download()
        return [self._result(shard, step) for shard in self._device_shards]

    def _result(self, shard: DeviceShard, step: StepParams) -> EpochResult:
        if not shard.n_rows:  # many identical rows can leave a shard empty
            return EpochResult(0.0, 0.0 if step.measure_loss else None)
        shard.report.download()
        return EpochResult(shard.report.host_partition_sum(), shard.report.host_loss() if step.measure_loss else None)

    def _choose_mesh(self) -> Mesh | None:
        """Return the mesh that covers the whole map, with its arrays allocated; None if a direct sum is preferable."""
        n_total = self._parts.n_rows
        nothing = np.empty((0, self._dim), np.float32)
        low, high = clamped_box(*self._whole.host_bounds(), self._whole.host_sample(), nothing)
        mesh = choose_field_mesh(low, high, self._spacing, MAX_MESH_NODES)
        if prefers_direct_sum(n_total, n_total, math.prod(padded_shape(mesh.shape))):
            return None
        self._field.set_mesh(mesh)
        if self._charges_version != self._field.version:
            self._charges_version = self._field.version
            xp, first = self._runtime.xp, self._field.charges[0]
            self._charges = [first, *(xp.zeros(first.shape, np.int64) for _ in self._device_shards[1:])]
        return mesh

    def _write_inputs(self, step: StepParams, mesh: Mesh | None) -> None:
        numbers = make_numbers(step)
        # The field counts every pair twice. Kernels receive the whole Z of this epoch: no part of it is extrapolated.
        numbers["n_total"], numbers["factor"], numbers["share"] = self._parts.n_rows, 2, 1
        self._inputs.write(numbers, mesh, float(self._parts.n_rows))

    def _step_by_mesh(self) -> None:
        field, total = self._field, self._field.charges[1]
        for shard, charges in zip(self._device_shards, self._charges, strict=True):
            field.deposit(shard.points.positions, None, charges)
        own = self._charges[0]
        if len(self._charges) > 1:
            own = total
            own[...] = self._charges[0]
            for charges in self._charges[1:]:
                own += charges
        self._communicator.sum_integers(own, total)
        self._count_bytes(2 * (self._parts.n_members - 1) * total.nbytes)
        field.convolve(total, None)
        field.sum_potential(total, -float(self._parts.n_rows), self._whole.partition_sum)
        for shard, charges in zip(self._device_shards, self._charges, strict=True):
            if shard.n_rows:
                field.sum_potential(charges, -float(shard.n_rows), shard.report.partition_sum)
                move_by_mesh(shard, field.potential, self._whole.partition_sum)

    def _step_directly(self) -> None:
        n_total, sums, z = self._parts.n_rows, self._partition_sums, self._whole.partition_sum
        for number, shard in zip(self._numbers, self._device_shards, strict=True):
            if shard.n_rows:
                forces = self._forces_of(number, shard)
                shard.launch(
                    "direct", shard.n_rows, shard.points.positions, np.int64(shard.n_rows), self._positions, None,
                    np.int64(n_total), forces.potential, forces.repulsion,
                )  # fmt: skip
                write_partition_sum(shard, forces.potential, -float(shard.n_rows))
                sums[number : number + 1] = shard.report.partition_sum
        self._communicator.share_parts(sums, self._parts.of_single_rows())
        self._runtime.launch("total", self._dim, 1, sums, np.int64(len(sums)), np.float64(0), z)
        for number, shard in zip(self._numbers, self._device_shards, strict=True):
            if shard.n_rows:
                move_by_rows(shard, self._forces_of(number, shard).repulsion, shard.graph.edges, z)

    def _forces_of(self, number: int, shard: DeviceShard) -> RowForces:
        """Return U and R of a shard's rows; allocated on first use, because steps by mesh do not need them."""
        if number not in self._forces:
            self._forces[number] = RowForces.allocate(shard.n_rows, self._dim, self._runtime)
        return self._forces[number]

    def _share_positions(self) -> None:
        """Share the positions of all rows, and measure them."""
        offsets = self._parts.offsets
        for number, shard in zip(self._numbers, self._device_shards, strict=True):
            self._positions[offsets[number] : offsets[number + 1]] = shard.points.positions
        self._communicator.share_parts(self._positions, self._parts)
        self._count_bytes((self._parts.n_members - 1) * self._positions.nbytes)
        for far in self._far:
            far.update(self._positions)
        nothing = self._device_shards[0].graph
        self._whole.measure(self._positions, nothing.rows_by_patch, nothing.patch_offsets)

    def _count_bytes(self, n_bytes: int) -> None:
        self.exchanged_bytes += n_bytes
