"""One shard's layout on the CPU: repulsion by the field or by cell means, then attraction and the step."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.cpu.fft_convolution import KernelTransforms
from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.cpu.force_kernels import ConditionalEdges, Edges, StepFactors, force_kernels
from nomad_dask.backends.cpu.patch_moments import patch_moments
from nomad_dask.backends.data import EpochResult, RemoteState, ShardGraph, StepParams
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.backends.shard_layout import MIN_SHARD_Z, MIN_Z, loss_stride
from nomad_dask.params import Params
from nomad_dask.utils.threads import Threads

_ROW_CHUNK = 1 << 13
_NO_WEIGHTS = np.empty(0, np.float32)
_NO_CODES = np.empty(0, np.uint8)

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
    transforms : KernelTransforms, optional
        Shared with the other shards of the process.
    max_mesh_nodes : int
        Nodes of the field's mesh, at most.
    """

    def __init__(
        self,
        graph: ShardGraph,
        params: Params,
        n_total: int,
        pool: Threads,
        transforms: KernelTransforms | None = None,
        max_mesh_nodes: int = MAX_MESH_NODES,
    ) -> None:
        dim = params.n_components
        self._graph = graph
        self._params = params
        self._n_total = n_total
        self._pool = pool
        self._force = force_kernels(dim, graph.weight_codes is not None)
        self._field = Field(dim, params.mesh_spacing, max_mesh_nodes, pool, transforms)
        self._positions = np.zeros((graph.n_rows, dim), np.float32)
        self._moved = np.empty_like(self._positions)
        self._velocity = np.zeros_like(self._positions)
        self._potential = np.empty(graph.n_rows, np.float32)
        self._repulsion = np.empty_like(self._positions)
        if params.repulsion_method == "means":
            self._cell_means = CellMeanRepulsion(graph, params, pool)

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Set positions and velocities, both float32 (n_rows, dim)."""
        self._positions[:] = positions
        self._velocity[:] = velocity

    def copy_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities."""
        return self._positions.copy(), self._velocity.copy()

    def copy_positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of a slice of the rows."""
        return self._positions[rows].copy()

    def patch_moments(self) -> np.ndarray:
        """Return means and standard deviations (n_patches, 2·dim) float32 of the shard's patches."""
        return patch_moments(self._positions, self._graph.patch_of_row, self._graph.patch_counts)

    def run_epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""
        if not self._graph.n_rows:  # identical rows may fill fewer shards than there are
            return EpochResult(0.0, 0.0 if step.measure_loss else None)
        if self._params.normalization == "global":
            result, weights, repulsion_factor = self._normalize_globally(step, remote)
        else:
            result, weights, repulsion_factor = self._normalize_per_point(step, remote)
        edges = self._edges(weights, remote)
        factors = StepFactors(
            f32(repulsion_factor),
            f32(step.exaggeration),
            f32(step.learning_rate),
            f32(step.momentum),
            f32(step.max_step_norm),
        )

        def move(start: int, stop: int) -> None:
            self._force.move(self._positions, self._velocity, self._repulsion, start, stop, edges, factors, self._moved)

        self._pool.run(move, self._graph.n_rows, _ROW_CHUNK)
        self._positions, self._moved = self._moved, self._positions
        return result

    def _normalize_globally(self, step: StepParams, remote: RemoteState) -> tuple[EpochResult, np.ndarray, float]:
        """Compute R for L = −Σ p log q + n·log(Z/n); return the result, the weights of attraction and R's factor."""
        n, graph = self._n_total, self._graph
        if self._params.repulsion_method == "field":
            z_sum = self._compute_field(remote, _NO_WEIGHTS)
            factor = 2.0  # every pair is in Z twice
        else:
            z_sum = self._compute_cell_means(step.epoch, remote, np.ones(graph.n_rows, np.float32))[1]
            factor = 1.0
        z_all = _z_of_all_shards(z_sum, remote, n / graph.n_rows)
        loss = self._attraction_loss(remote) if step.measure_loss else None
        return EpochResult(z_sum, loss), graph.weights, factor * n / max(z_all, MIN_Z)

    def _normalize_per_point(self, step: StepParams, remote: RemoteState) -> tuple[EpochResult, np.ndarray, float]:
        """Compute R for L = −Σ p log[q/(q+Z_i)]; return the result, the weights of attraction and R's factor."""
        n_rows = self._graph.n_rows
        noise = (self._params.n_noise or self._n_total) / self._n_total
        if self._params.repulsion_method == "field":
            z_sum = self._compute_field(remote, _NO_WEIGHTS)
            z = self._potential - f32(1)
        else:
            z, z_sum = self._compute_cell_means(step.epoch, remote, np.ones(n_rows, np.float32))
        weights, row_weights, loss = self._point_coefficients(np.maximum(z, f32(MIN_Z)).astype(np.float64) * noise)
        if self._params.repulsion_method == "field":
            # Row i repels m through its own normalizer (S_i) and through that of m (S_m): two fields.
            through_own = self._repulsion * row_weights[:, None]
            self._compute_field(remote, row_weights)
            self._repulsion += through_own
        else:
            self._compute_cell_means(step.epoch, remote, row_weights)
        return EpochResult(z_sum, loss if step.measure_loss else None), weights, noise

    def _point_coefficients(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the weights of attraction, the weight S_i of each row's normalizer, and the loss, from Z_i."""
        graph, n_rows = self._graph, self._graph.n_rows
        assert graph.conditional_p is not None  # noqa: S101 - the graph is made for this normalization
        edges = ConditionalEdges(graph.indptr, graph.indices, graph.conditional_p, graph.weights - graph.conditional_p)
        weights = np.empty_like(graph.weights)
        row_weights = np.empty(n_rows, np.float32)
        losses = np.zeros(-(-n_rows // _ROW_CHUNK))

        def compute(start: int, stop: int) -> None:
            losses[start // _ROW_CHUNK] = self._force.point_coefficients(
                self._positions, start, stop, edges, z, weights, row_weights
            )

        self._pool.run(compute, n_rows, _ROW_CHUNK)
        return weights, row_weights, float(losses.sum())

    def _compute_field(self, remote: RemoteState, weights: np.ndarray) -> float:
        """Write U and R_i = Σ_m w_m q² (y_i − y_m) = −½∇U; return the shard's part of Z = Σ (U − 1)."""
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
        return max(total - self._graph.n_rows, MIN_SHARD_Z)

    def _compute_cell_means(self, epoch: int, remote: RemoteState, row_weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Write R by cell means and samples; return Z_i (n_rows,) and their sum."""
        z = self._cell_means.evaluate(self._positions, row_weights, remote, epoch, self._repulsion)
        return z, max(float(z.sum(dtype=np.float64)), MIN_SHARD_Z)

    def _edges(self, weights: np.ndarray, remote: RemoteState) -> Edges:
        """Return the edges of the shard with these weights float32, of edges or of codes as those of the graph."""
        graph = self._graph
        return Edges(
            graph.indptr,
            graph.indices,
            weights,
            _NO_CODES if graph.weight_codes is None else graph.weight_codes,
            remote.patch_moments,
            graph.cross_indptr,
            graph.cross_patches,
            graph.cross_weights,
        )

    def _attraction_loss(self, remote: RemoteState) -> float:
        """Return the shard's −Σ p log q, from evenly spaced rows when there are many."""
        n_rows = self._graph.n_rows
        stride = loss_stride(n_rows)
        total = self._force.attraction_loss(self._positions, stride, self._edges(self._graph.weights, remote))
        return float(total) * n_rows / len(range(0, n_rows, stride))


def _z_of_all_shards(z: float, remote: RemoteState, rows_ratio: float) -> float:
    """Return Z of all shards from this shard's current part and the others' parts of the previous exchange.

    The others are assumed to have changed since then as this shard's part did: in the first epochs the map grows
    fast, and an outdated Z would hold it back. Before the first exchange they are assumed to be as dense as this shard.
    """
    if remote.partition_sum is None or not remote.local_partition_sum:
        return z * rows_ratio
    return z + remote.partition_sum * (z / remote.local_partition_sum)
