"""One shard's layout on the GPU; the counterpart of `backends.cpu.layout`.

In the default case (one normalizer, repulsion by the field on a mesh) the launches of an epoch are one CUDA graph.
Its inputs are written before it without waiting, and one small copy transfers what the host needs: Z, the loss, the
patches, and the extent of the map, from which the mesh of the next epoch is chosen.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from nomad_dask.backends.data import EpochResult, RemoteState, ShardGraph, StepParams
from nomad_dask.backends.gpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.gpu.device_shard import DeviceShard
from nomad_dask.backends.gpu.field_repulsion import FieldRepulsion
from nomad_dask.backends.gpu.global_step import GlobalFieldStep, GlobalMeansStep
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.backends.gpu.point_step import PointFieldRepulsion, PointMeansRepulsion, PointStep
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.params import Params


class Step(Protocol):
    """Moves all rows once, by one method of normalization and repulsion."""

    def run(self, step: StepParams, remote: RemoteState) -> None:
        """Write the next positions of all rows, and the report."""

    def loss(self) -> float:
        """Return the shard's part of the loss before the step, after the report was downloaded."""


def create_step(shard: DeviceShard, graph: ShardGraph, params: Params) -> Step:
    """Return the step for the normalization and repulsion of `params`."""
    if params.repulsion_method == "field":
        field = FieldRepulsion(shard, params.mesh_spacing)
        if params.normalization == "global":
            return GlobalFieldStep(shard, field)
        return PointStep(shard, PointFieldRepulsion(shard, field), params.n_noise)
    means = CellMeanRepulsion(shard, graph, params)
    if params.normalization == "global":
        return GlobalMeansStep(shard, means)
    return PointStep(shard, PointMeansRepulsion(shard, means), params.n_noise)


class GpuShardPoints:
    """Copies of the positions and velocities of a shard on the device.

    Parameters
    ----------
    shard : DeviceShard
    """

    def __init__(self, shard: DeviceShard) -> None:
        self._shard = shard

    def copy_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities on the host."""
        points, runtime = self._shard.points, self._shard.runtime
        return runtime.download(points.positions), runtime.download(points.velocity)

    def copy_positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of a slice of the rows on the host."""
        return self._shard.runtime.download(self._shard.points.positions[rows])


class GpuShardLayout(GpuShardPoints):
    """Positions and velocities of one shard on the device.

    Parameters
    ----------
    graph : ShardGraph
    params : Params
    n_total : int
        Rows of the whole map.
    runtime : Runtime
    """

    def __init__(self, graph: ShardGraph, params: Params, n_total: int, runtime: Runtime) -> None:
        super().__init__(DeviceShard.from_graph(graph, params, n_total, runtime))
        self._step = create_step(self._shard, graph, params)

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Set positions and velocities, both float32 (n_rows, dim)."""
        shard = self._shard
        if not shard.n_rows:
            return
        shard.points.load(positions, velocity)
        shard.measure(shard.points.positions)
        shard.report.download()

    def patch_moments(self) -> np.ndarray:
        """Return means and standard deviations (n_patches, 2·dim) float32 of the shard's patches."""
        return self._shard.report.host_patch_moments()

    def run_epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""
        shard = self._shard
        if not shard.n_rows:  # many identical rows can leave a shard empty
            return EpochResult(0.0, 0.0 if step.measure_loss else None)
        with translate_oom(shard.runtime, f"the layout of a shard of {shard.n_rows:,} rows"):
            shard.remote.update(remote)
            self._step.run(step, remote)
            shard.points.swap()
            shard.report.download()
        return EpochResult(shard.report.host_partition_sum(), self._step.loss() if step.measure_loss else None)
