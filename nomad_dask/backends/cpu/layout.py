"""One shard's layout on the CPU: the field or the paper's means, then attraction and the step."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import EpochResult, RemoteState, ShardGraph, StepParams
from nomad_dask.backends.cpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.cpu.force_kernels import ConditionalEdges, Edges, StepFactors, force_kernels
from nomad_dask.backends.cpu.group_moments import patch_moments
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.backends.shard_layout import loss_stride
from nomad_dask.params import Params
from nomad_dask.utils.threads import Threads

_ROW_CHUNK = 1 << 13

f32 = np.float32


class CpuShardLayout:
    """Positions and velocities of one shard, moved by Numba kernels.

    Parameters
    ----------
    graph : ShardGraph
    params : Params
    n_total : int
        Rows of the whole map.
    pool : Threads
    """

    def __init__(self, graph: ShardGraph, params: Params, n_total: int, pool: Threads) -> None:
        dim = params.n_components
        self._graph = graph
        self._params = params
        self._n_total = n_total
        self._pool = pool
        self._force = force_kernels(dim)
        self._field = Field(dim, params.mesh_spacing, MAX_MESH_NODES, pool)
        self._positions = np.zeros((graph.n_rows, dim), np.float32)
        self._moved = np.empty_like(self._positions)
        self._velocity = np.zeros_like(self._positions)
        self._potential = np.empty(graph.n_rows, np.float32)
        self._repulsion = np.empty_like(self._positions)
        if params.repulsion_method == "means":
            self._means = CellMeanRepulsion(graph, params, pool)

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Take up a state, both float32 (rows, dim)."""
        self._positions[:] = positions
        self._velocity[:] = velocity

    def copy_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities."""
        return self._positions.copy(), self._velocity.copy()

    def copy_positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of some rows."""
        return self._positions[rows].copy()

    def patch_moments(self) -> np.ndarray:
        """Return means and standard deviations (patches, 2·dim) float32 of the own patches."""
        return patch_moments(self._positions, self._graph.patch_of_row, self._graph.patch_counts)

    def run_epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""
        if not self._graph.n_rows:  # rows that are all alike may fill fewer shards than there are
            return EpochResult(0.0, 0.0 if step.measure_loss else None)
        if self._params.normalization == "global":
            outcome, weights, repel = self._one_normalizer(step, remote)
        else:
            outcome, weights, repel = self._normalizer_per_point(step, remote)
        edges = self._edges(weights, remote)
        factors = StepFactors(
            f32(repel), f32(step.exaggeration), f32(step.learning_rate), f32(step.momentum), f32(step.max_step_norm)
        )

        def move(start: int, stop: int) -> None:
            self._force.move(self._positions, self._velocity, self._repulsion, start, stop, edges, factors, self._moved)

        self._pool.run(move, self._graph.n_rows, _ROW_CHUNK)
        self._positions, self._moved = self._moved, self._positions
        return outcome

    def _one_normalizer(self, step: StepParams, remote: RemoteState) -> tuple[EpochResult, np.ndarray, float]:
        """L = −Σ p log q + n·log(Z/n). Fills R, returns the outcome, the attraction's weights and R's factor."""
        n, graph = self._n_total, self._graph
        if self._params.repulsion_method == "field":
            z = self._field_forces(remote, np.empty(0, np.float32))
            factor = 2.0  # every pair is in Z twice
        else:
            z = self._means_forces(step.epoch, remote, np.ones(graph.n_rows, np.float32))[1]
            factor = 1.0
        z_all = _whole_z(z, remote, n / graph.n_rows)
        loss = self._attraction_loss(remote) if step.measure_loss else None
        return EpochResult(z, loss), graph.weights, factor * n / max(z_all, 1e-12)

    def _normalizer_per_point(self, step: StepParams, remote: RemoteState) -> tuple[EpochResult, np.ndarray, float]:
        """L = −Σ p log[q/(q+Z_i)]. Fills R, returns the outcome, the attraction's weights and R's factor."""
        graph = self._graph
        assert graph.conditional_p is not None  # noqa: S101 - made for this normaliser
        rows = graph.n_rows
        noise = (self._params.n_noise or self._n_total) / self._n_total
        if self._params.repulsion_method == "field":
            z_sum = self._field_forces(remote, np.empty(0, np.float32))
            z = self._potential - f32(1)
        else:
            z, z_sum = self._means_forces(step.epoch, remote, np.ones(rows, np.float32))
        z = np.maximum(z, f32(1e-12)).astype(np.float64) * noise
        weights = np.empty_like(graph.weights)
        edges = ConditionalEdges(graph.indptr, graph.indices, graph.conditional_p, graph.weights - graph.conditional_p)
        shares = np.empty(rows, np.float32)
        losses = np.zeros(-(-rows // _ROW_CHUNK))

        def part(a: int, b: int) -> None:
            losses[a // _ROW_CHUNK] = self._force.point_coefficients(self._positions, a, b, edges, z, weights, shares)

        self._pool.run(part, rows, _ROW_CHUNK)
        if self._params.repulsion_method == "field":
            # Row i pushes m in its own normaliser (S_i) and in that of m (S_m): two fields.
            own = self._repulsion * shares[:, None]
            self._field_forces(remote, shares)
            self._repulsion += own
        else:
            self._means_forces(step.epoch, remote, shares)
        return EpochResult(z_sum, float(losses.sum()) if step.measure_loss else None), weights, noise

    def _field_forces(self, remote: RemoteState, weights: np.ndarray) -> float:
        """Fill R_i = Σ_m w_m q² (y_i − y_m) = −½∇U and U; return the own part of Z = Σ (U − 1)."""
        remote_weights = remote.weights if not len(weights) else remote.weights * weights.mean(dtype=np.float64)
        total = self._field.evaluate(
            self._positions,
            weights,
            remote.points,
            remote_weights.astype(np.float32),
            self._potential,
            self._repulsion,
        )
        self._repulsion *= f32(-0.5)
        return max(total - self._graph.n_rows, 1e-9)

    def _means_forces(self, epoch: int, remote: RemoteState, shares: np.ndarray) -> tuple[np.ndarray, float]:
        """Fill R by means and samples; return Z_i (rows,) and their sum."""
        z = self._means.evaluate(self._positions, shares, remote, epoch, self._repulsion)
        return z, max(float(z.sum(dtype=np.float64)), 1e-9)

    def _edges(self, weights: np.ndarray, remote: RemoteState) -> Edges:
        """Return the edges of the shard with these weights (n_edges,) float32."""
        graph = self._graph
        return Edges(
            graph.indptr, graph.indices, weights,
            remote.patch_moments, graph.cross_indptr, graph.cross_patches, graph.cross_weights,
        )  # fmt: skip

    def _attraction_loss(self, remote: RemoteState) -> float:
        """Return the shard's −Σ p log q, from evenly spaced rows when there are many."""
        graph = self._graph
        stride = loss_stride(graph.n_rows)
        total = self._force.attraction_loss(self._positions, stride, self._edges(graph.weights, remote))
        return float(total) * graph.n_rows / len(range(0, graph.n_rows, stride))


def _whole_z(z: float, remote: RemoteState, share: float) -> float:
    """Return Z of all shards from the own part now and the others' an epoch ago.

    The others are taken to have changed since as the own part did: in the first epochs the map grows fast,
    and an old Z would hold it back. Before the first exchange they are taken to be as crowded as the own.
    """
    if remote.partition_sum is None or not remote.local_partition_sum:
        return z * share
    return z + remote.partition_sum * (z / remote.local_partition_sum)
