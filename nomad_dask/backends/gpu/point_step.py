"""Steps with one normalizer per point: L = −Σ p log[q/(q+Z_i)]."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.data import RemoteState, StepParams
from nomad_dask.backends.gpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.gpu.device_shard import DeviceShard
from nomad_dask.backends.gpu.epoch_inputs import make_numbers
from nomad_dask.backends.gpu.field_repulsion import FieldRepulsion
from nomad_dask.backends.gpu.readback import EDGE_LANES
from nomad_dask.backends.gpu.runtime import reduction_threads
from nomad_dask.backends.gpu.step_kernels import move_by_rows, sum_rows, write_partition_sum
from nomad_dask.backends.mesh import Mesh


class PointRepulsion(Protocol):
    """The two passes of the repulsion: first the normalizers Z_i, then forces that depend on all of them."""

    @property
    def repulsion(self) -> Any:
        """R of every row (n_rows, dim) float32, as `write_repulsion` wrote it."""

    def write_normalizers(self, numbers: np.ndarray, epoch: int, z: Any) -> None:
        """Write Z_i (n_rows,) and their sum, and the inputs of the epoch."""

    def write_repulsion(self, numbers: np.ndarray, epoch: int, remote: RemoteState, shares: Any) -> None:
        """Write `repulsion`; `shares` (n_rows,) weights the gradient of each Z_i."""


class PointFieldRepulsion:
    """`PointRepulsion` by the field.

    Parameters
    ----------
    shard : DeviceShard
    field : FieldRepulsion
    """

    def __init__(self, shard: DeviceShard, field: FieldRepulsion) -> None:
        self._shard = shard
        self._field = field
        self._mesh: Mesh | None = None

    @property
    def repulsion(self) -> Any:
        """R of every row."""
        return self._field.rows.repulsion

    def write_normalizers(self, numbers: np.ndarray, epoch: int, z: Any) -> None:
        """Write Z_i; see `PointRepulsion`."""
        shard, potential = self._shard, self._field.rows.potential
        self._mesh = self._field.choose_mesh()
        shard.inputs.write(numbers, self._mesh, shard.total_charge)
        self._field.evaluate(self._mesh, None, shard.remote.weights)
        write_partition_sum(shard, potential, -float(shard.n_rows))
        shard.runtime.xp.subtract(potential, np.float32(1), out=z)

    def write_repulsion(self, numbers: np.ndarray, epoch: int, remote: RemoteState, shares: Any) -> None:
        """Write `repulsion`; see `PointRepulsion`."""
        shard, n, repulsion = self._shard, self._shard.n_rows, self.repulsion
        # Row i pushes m in its own normalizer (S_i) and in that of m (S_m): two fields.
        own = repulsion * shares[:, None]
        total = sum_rows(shard, shares)
        shard.inputs.write(numbers, self._mesh, total * shard.total_charge / n)
        remote_weights = shard.runtime.upload((remote.weights * (total / n)).astype(np.float32))
        self._field.evaluate(self._mesh, shares, remote_weights)
        repulsion += own


class PointMeansRepulsion:
    """`PointRepulsion` by cell means.

    Parameters
    ----------
    shard : DeviceShard
    means : CellMeanRepulsion
    """

    def __init__(self, shard: DeviceShard, means: CellMeanRepulsion) -> None:
        self._shard = shard
        self._means = means
        self.repulsion: Any = shard.runtime.xp.zeros((shard.n_rows, shard.dim), np.float32)

    def write_normalizers(self, numbers: np.ndarray, epoch: int, z: Any) -> None:
        """Write Z_i; see `PointRepulsion`."""
        self._shard.inputs.write(numbers, None, self._shard.total_charge)
        self._means.evaluate(epoch, None, z, self.repulsion)
        write_partition_sum(self._shard, z, 0.0)

    def write_repulsion(self, numbers: np.ndarray, epoch: int, remote: RemoteState, shares: Any) -> None:
        """Write `repulsion`; see `PointRepulsion`."""
        self._means.evaluate(epoch, shares, None, self.repulsion)


class PointStep:
    """Steps with one normalizer per point.

    Parameters
    ----------
    shard : DeviceShard
    repulsion : PointRepulsion
    n_noise : int or None
        Noise points per row; None for the number of rows of the map.
    """

    def __init__(self, shard: DeviceShard, repulsion: PointRepulsion, n_noise: int | None) -> None:
        xp, edges = shard.runtime.xp, shard.graph.edges
        self._shard = shard
        self._repulsion = repulsion
        self._noise = (n_noise or shard.n_total) / shard.n_total
        self._edges = edges._replace(weights=xp.zeros(edges.weights.shape, np.float32))
        self._z = xp.zeros(shard.n_rows, np.float32)
        self._shares = xp.zeros(shard.n_rows, np.float32)
        self._loss = 0.0

    def run(self, step: StepParams, remote: RemoteState) -> None:
        """Write the next positions of all rows, and the report."""
        numbers = make_numbers(step)
        numbers["n_total"], numbers["factor"] = 1, self._noise
        self._repulsion.write_normalizers(numbers, step.epoch, self._z)
        self._weight_edges()
        self._repulsion.write_repulsion(numbers, step.epoch, remote, self._shares)
        move_by_rows(self._shard, self._repulsion.repulsion, self._edges, None)
        self._shard.measure(self._shard.points.next_positions)

    def loss(self) -> float:
        """Return the shard's part of the loss before the step."""
        return self._loss

    def _weight_edges(self) -> None:
        """Compute the weights of the edges, the shares and the loss from the normalizers."""
        shard, graph, n = self._shard, self._shard.graph, self._shard.n_rows
        shard.launch(
            "point_coefficients", reduction_threads(EDGE_LANES * n), shard.points.positions, np.int64(n),
            *graph.edges[:3], graph.conditional_p, self._z, np.float64(self._noise), self._edges.weights, self._shares,
            shard.partials,
        )  # fmt: skip
        self._loss = float(shard.runtime.download(shard.partials).sum())
