"""Steps with one normalizer for the whole map: L = −Σ p log q + n·log(Z/n)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomad_dask.backends.data import RemoteState, StepParams
from nomad_dask.backends.gpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.gpu.device_shard import DeviceShard
from nomad_dask.backends.gpu.epoch_inputs import make_numbers
from nomad_dask.backends.gpu.field_repulsion import FieldRepulsion
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.gpu.step_kernels import (
    measure_attraction_loss,
    move_by_mesh,
    move_by_rows,
    write_partition_sum,
)


def _make_numbers(shard: DeviceShard, step: StepParams, remote: RemoteState, factor: int) -> np.ndarray:
    """Return the `NUMBERS` of a step; `factor` is the factor on the repulsion."""
    numbers = make_numbers(step)
    numbers["n_total"], numbers["factor"] = shard.n_total, factor
    numbers["share"] = shard.n_total / shard.n_rows
    if remote.partition_sum is not None and remote.local_partition_sum:
        numbers["z_known"], numbers["remote_z"] = 1, remote.partition_sum
        numbers["local_z"] = remote.local_partition_sum
    return numbers


class _CapturedLaunches:
    """Launches that are captured once and then replayed, until the arrays they use are reallocated."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._version: tuple[int, ...] = ()
        self._replays: dict[tuple[str, int], Callable[[], None]] = {}

    def run(self, work: Callable[[], None], key: tuple[str, int], version: tuple[int, ...]) -> None:
        """Do `work`; `key` identifies its launches, and `version` the allocations that they use."""
        if version != self._version:
            self._replays.clear()
            self._version = version
        if key not in self._replays:
            self._replays[key] = self._runtime.capture(work)
        self._replays[key]()


class GlobalFieldStep:
    """Steps with repulsion by the field; all launches of an epoch are captured as one graph.

    Parameters
    ----------
    shard : DeviceShard
    repulsion : FieldRepulsion
    """

    def __init__(self, shard: DeviceShard, repulsion: FieldRepulsion) -> None:
        self._shard = shard
        self._repulsion = repulsion
        self._captured = _CapturedLaunches(shard.runtime)

    def run(self, step: StepParams, remote: RemoteState) -> None:
        """Write the next positions of all rows, and the report."""
        shard = self._shard
        mesh = self._repulsion.choose_mesh()
        numbers = _make_numbers(shard, step, remote, factor=2)  # the field counts every pair twice
        shard.inputs.write(numbers, mesh, shard.total_charge)
        if step.measure_loss:
            measure_attraction_loss(shard)
        name, work = ("direct", self._step_directly) if mesh is None else ("mesh", self._step_by_mesh)
        version = shard.remote.version, self._repulsion.mesh_field.version
        self._captured.run(work, (name, shard.points.parity), version)

    def loss(self) -> float:
        """Return the shard's part of −Σ p log q, after the report was downloaded."""
        return self._shard.report.host_loss()

    def _step_by_mesh(self) -> None:
        shard, field = self._shard, self._repulsion.mesh_field
        field.solve(shard.points.positions, None, shard.remote.points, shard.remote.weights)
        field.sum_potential(field.charges[0], -float(shard.n_rows), shard.report.partition_sum)
        move_by_mesh(shard, field.potential, shard.report.partition_sum)
        shard.measure(shard.points.next_positions)

    def _step_directly(self) -> None:
        shard, rows = self._shard, self._repulsion.rows
        self._repulsion.evaluate(None, None, shard.remote.weights)
        write_partition_sum(shard, rows.potential, -float(shard.n_rows))
        move_by_rows(shard, rows.repulsion, shard.graph.edges, shard.report.partition_sum)
        shard.measure(shard.points.next_positions)


class GlobalMeansStep:
    """Steps with the paper's repulsion by cell means.

    Parameters
    ----------
    shard : DeviceShard
    repulsion : CellMeanRepulsion
    """

    def __init__(self, shard: DeviceShard, repulsion: CellMeanRepulsion) -> None:
        self._shard = shard
        self._repulsion = repulsion
        self._z = shard.runtime.xp.zeros(shard.n_rows, np.float32)
        self._row_repulsion = shard.runtime.xp.zeros((shard.n_rows, shard.dim), np.float32)

    def run(self, step: StepParams, remote: RemoteState) -> None:
        """Write the next positions of all rows, and the report."""
        shard = self._shard
        shard.inputs.write(_make_numbers(shard, step, remote, factor=1), None, shard.total_charge)
        if step.measure_loss:
            measure_attraction_loss(shard)
        self._repulsion.evaluate(step.epoch, None, self._z, self._row_repulsion)
        write_partition_sum(shard, self._z, 0.0)
        move_by_rows(shard, self._row_repulsion, shard.graph.edges, shard.report.partition_sum)
        shard.measure(shard.points.next_positions)

    def loss(self) -> float:
        """Return the shard's part of −Σ p log q, after the report was downloaded."""
        return self._shard.report.host_loss()
