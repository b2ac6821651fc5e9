"""One shard's layout on the GPU: the field or the paper's means, then attraction and the step.

As `backends.cpu.layout`. In the default case (one normaliser, repulsion by the field on a mesh) an epoch is one
graph of launches: its numbers are written before it without waiting, and one small copy brings back what the
host must know: Z, the loss, the patches, and where the mesh of the next epoch has to lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nomad_dask.backends.base import EpochResult, RemoteState, ShardGraph, StepParams
from nomad_dask.backends.gpu.cell_mean_repulsion import CellMeanRepulsion
from nomad_dask.backends.gpu.field import (
    FRAME,
    DeviceField,
    DirectField,
    fixed_point_scale,
    frame_of,
    sums_directly,
)
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.backends.gpu.packed_csr import pack, pack_values
from nomad_dask.backends.gpu.readback import Readback
from nomad_dask.backends.gpu.runtime import Runtime, count_blocks
from nomad_dask.backends.mesh import MAX_MESH_NODES, Mesh, choose_mesh, held_box, sample_step
from nomad_dask.backends.shard_layout import loss_stride
from nomad_dask.params import Params

_LANES = 8  # of a row, in the kernels that go along its edges
_PATCH_LANES = 8
# Threads of the kernel that looks at all positions: each block leaves a box, and the host copies them all.
_WATCH_THREADS = 1 << 17

NUMBERS = np.dtype(
    [
        ("n_total", np.float64),
        ("factor", np.float64),
        ("remote_z", np.float64),
        ("local_z", np.float64),
        ("share", np.float64),
        ("z_known", np.int32),
        ("attract", np.float32),
        ("rate", np.float32),
        ("momentum", np.float32),
        ("max_step_norm", np.float32),
    ],
    align=True,
)
"""`struct Numbers` of the kernels: what changes from epoch to epoch."""


class GpuShardLayout:
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
        self._params = params
        self._n_total = n_total
        self._n = n = graph.n_rows
        self._dim = dim = params.n_components
        self._runtime = runtime
        self._what = f"the layout of a shard of {n:,} rows"
        xp = runtime.xp
        self._positions = xp.zeros((n, dim), np.float32)
        self._moved = xp.zeros((n, dim), np.float32)
        self._velocity = xp.zeros((n, dim), np.float32)
        self._upload_graph(graph)
        # What kernels read of an epoch, in one array so that one copy writes it.
        self._inputs = xp.zeros(FRAME.itemsize + NUMBERS.itemsize, np.uint8)
        self._frame, self._numbers = self._inputs[: FRAME.itemsize], self._inputs[FRAME.itemsize :]
        self._mesh_field = DeviceField(dim, runtime, self._frame)
        self._direct_field = DirectField(dim, runtime)
        self._partials = xp.zeros(count_blocks(_LANES * n), np.float64)
        # The loss is measured in rows 0, stride, 2·stride and so on.
        self._stride = loss_stride(n)
        self._loss_rows = len(range(0, n, self._stride))
        self._watch_items = min(n, _WATCH_THREADS)
        self._report = Readback(
            xp,
            {
                "z": (np.float64, (1,)),
                "loss": (np.float64, (count_blocks(_LANES * self._loss_rows),)),
                "box": (np.float32, (count_blocks(self._watch_items), 2, dim)),
                "sample": (np.float32, (len(range(0, n, sample_step(n))), dim)),
                "patches": (np.float32, (len(graph.patch_counts), 2 * dim)),
            },
        )
        self._z = self._report.on_device["z"]
        self._told = self._report.split(np.zeros(self._report.buffer.shape, np.uint8))
        # Launches of an epoch by what they do and by which of the two buffers holds the positions.
        self._replays: dict[tuple[str, int], Callable[[], None]] = {}
        self._parity = 0
        self._met: RemoteState | None = None
        self._meeting: dict[str, Any] = {}
        self._charge = float(n)
        self._potential: Any = None
        if params.normalization == "point" or params.repulsion_method == "means":
            self._make_row_arrays()
        self._means = CellMeanRepulsion(graph, params, runtime) if params.repulsion_method == "means" else None

    def _upload_graph(self, graph: ShardGraph) -> None:
        upload = self._runtime.upload
        self._ptr, self._edges = map(upload, pack(graph.indptr, graph.indices, graph.weights))
        self._far_ptr, self._far_edges = map(upload, pack(graph.cross_indptr, graph.cross_patches, graph.cross_weights))
        if self._params.normalization == "point":
            assert graph.conditional_p is not None  # noqa: S101 - made for this normaliser
            self._forward = upload(pack_values(graph.indptr, graph.conditional_p))
            self._weighted_edges = self._runtime.xp.zeros(self._edges.shape, self._edges.dtype)
        offsets = np.zeros(len(graph.patch_counts) + 1, np.int64)
        np.cumsum(np.bincount(graph.patch_of_row, minlength=len(graph.patch_counts)), out=offsets[1:])
        self._patch_offsets = upload(offsets)
        self._rows_by_patch = upload(np.argsort(graph.patch_of_row, kind="stable").astype(np.int32))

    def _make_row_arrays(self) -> None:
        """Make the arrays that forces row by row need; the mesh alone works without."""
        xp, n = self._runtime.xp, self._n
        self._potential = xp.zeros(n, np.float32)
        self._repulsion = xp.zeros((n, self._dim), np.float32)
        self._z_rows = xp.zeros(n, np.float32)
        self._shares = xp.zeros(n, np.float32)

    # ------------------------------------------------------------------------------------ the protocol

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Take up a state, both float32 (rows, dim)."""
        if not self._n:
            return
        self._runtime.upload_into(self._positions, np.ascontiguousarray(positions, np.float32))
        self._runtime.upload_into(self._velocity, np.ascontiguousarray(velocity, np.float32))
        self._look_at(self._positions)
        self._read_report()

    def copy_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities on the host."""
        return self._runtime.download(self._positions), self._runtime.download(self._velocity)

    def copy_positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of some rows on the host."""
        return self._runtime.download(self._positions[rows])

    def patch_moments(self) -> np.ndarray:
        """Return means and standard deviations (patches, 2·dim) float32 of the own patches."""
        return np.array(self._told["patches"])

    def run_epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""
        if not self._n:  # rows that are all alike may fill fewer shards than there are
            return EpochResult(0.0, 0.0 if step.measure_loss else None)
        with translate_oom(self._runtime, self._what):
            self._meet(remote)
            if self._params.normalization == "global":
                loss = self._one_normalizer(step, remote)
            else:
                loss = self._normalizer_per_point(step, remote)
            self._positions, self._moved = self._moved, self._positions
            self._parity = 1 - self._parity
            self._read_report()
        return EpochResult(float(self._told["z"][0]), loss() if step.measure_loss else None)

    # ---------------------------------------------------------------------------------- one normaliser

    def _one_normalizer(self, step: StepParams, remote: RemoteState) -> Callable[[], float]:
        """L = −Σ p log q + n·log(Z/n). Moves the rows, returns what tells the loss once it is known."""
        by_field = self._params.repulsion_method == "field"
        numbers = _numbers(step)
        numbers["n_total"], numbers["factor"] = self._n_total, 2 if by_field else 1  # the field has every pair twice
        numbers["share"] = self._n_total / self._n
        if remote.partition_sum is not None and remote.local_partition_sum:
            numbers["z_known"], numbers["remote_z"] = 1, remote.partition_sum
            numbers["local_z"] = remote.local_partition_sum
        mesh = self._mesh() if by_field else None
        self._write_inputs(numbers, mesh, self._charge)
        if step.measure_loss:
            self._measure_loss()
        if not by_field:
            self._repel_by_means(step.epoch, None, self._z_rows)
            self._sum(self._z_rows, 0.0)
            self._move(self._edges, self._z)
        elif mesh is None:
            self._replay("direct", self._step_directly)
        else:
            self._replay("mesh", self._step_by_mesh)
        return lambda: float(self._told["loss"].sum()) * self._n / self._loss_rows

    def _step_by_mesh(self) -> None:
        met, field = self._meeting, self._mesh_field
        field.solve(self._positions, None, met["points"], met["weights"])
        field.sum_own(-float(self._n), self._z)
        self._launch(
            "step", _LANES * self._n, self._positions, self._velocity, np.int64(self._n), self._frame,
            field.potential, self._ptr, self._edges, self._far_ptr, self._far_edges, met["moments"], self._numbers,
            self._z, self._moved, self._velocity,
        )  # fmt: skip
        self._look_at(self._moved)

    def _step_directly(self) -> None:
        met = self._meeting
        self._direct_field.read(self._positions, None, met["points"], met["weights"], self._potential, self._repulsion)
        self._sum(self._potential, -float(self._n))
        self._move(self._edges, self._z)

    def _measure_loss(self) -> None:
        self._launch(
            "attraction_loss", _LANES * self._loss_rows, self._positions, np.int64(self._n), np.int64(self._stride),
            self._ptr, self._edges, self._far_ptr, self._far_edges, self._meeting["moments"],
            self._report.on_device["loss"],
        )  # fmt: skip

    # ---------------------------------------------------------------------------- one normaliser a point

    def _normalizer_per_point(self, step: StepParams, remote: RemoteState) -> Callable[[], float]:
        """L = −Σ p log[q/(q+Z_i)]. Moves the rows, returns what tells the loss once it is known."""
        xp, n, met = self._runtime.xp, self._n, self._meeting
        noise = (self._params.n_noise or self._n_total) / self._n_total
        numbers = _numbers(step)
        numbers["n_total"], numbers["factor"] = 1, noise
        by_field = self._params.repulsion_method == "field"
        mesh = self._mesh() if by_field else None
        self._write_inputs(numbers, mesh, self._charge)
        if by_field:
            self._field_at_rows(mesh, None, met["weights"])
            self._sum(self._potential, -float(n))
            xp.subtract(self._potential, np.float32(1), out=self._z_rows)
        else:
            self._repel_by_means(step.epoch, None, self._z_rows)
            self._sum(self._z_rows, 0.0)
        self._launch(
            "point_coefficients", _LANES * n, self._positions, np.int64(n), self._ptr, self._edges, self._forward,
            self._z_rows, np.float64(noise), self._weighted_edges, self._shares, self._partials,
        )  # fmt: skip
        loss = float(self._runtime.download(self._partials).sum())
        if by_field:
            # Row i pushes m in its own normaliser (S_i) and in that of m (S_m): two fields.
            own = self._repulsion * self._shares[:, None]
            self._launch("sum_rows", n, self._shares, np.int64(n), self._partials)
            total = float(self._runtime.download(self._partials[: count_blocks(n)]).sum())
            self._write_inputs(numbers, mesh, total * self._charge / n)
            weights = self._runtime.upload((remote.weights * (total / n)).astype(np.float32))
            self._field_at_rows(mesh, self._shares, weights)
            self._repulsion += own
        else:
            self._repel_by_means(step.epoch, self._shares, None)
        self._move(self._weighted_edges, None)
        return lambda: loss

    def _field_at_rows(self, mesh: Mesh | None, weights: Any, remote_weights: Any) -> None:
        """Fill U and R of all rows, by the mesh or directly."""
        remote = self._meeting["points"]
        if mesh is None:
            self._direct_field.read(self._positions, weights, remote, remote_weights, self._potential, self._repulsion)
        else:
            self._mesh_field.solve(self._positions, weights, remote, remote_weights)
            self._mesh_field.read(self._positions, self._potential, self._repulsion)

    # ----------------------------------------------------------------------------------- parts of both

    def _mesh(self) -> Mesh | None:
        """Return the mesh to lay over the map, with its buffers ready; None where a direct sum is better."""
        low, high = self._told["box"][:, 0].min(axis=0), self._told["box"][:, 1].max(axis=0)
        low, high = held_box(low, high, self._told["sample"], self._meeting["corners"])
        mesh = choose_mesh(low, high, self._params.mesh_spacing, MAX_MESH_NODES)
        n_charges = self._n + len(self._meeting["points"])
        if sums_directly(self._n, n_charges, math.prod(mesh.shape), self._dim):
            if self._potential is None:
                self._make_row_arrays()
            return None
        if self._mesh_field.lay(mesh):
            self._replays.clear()
        return mesh

    def _write_inputs(self, numbers: np.ndarray, mesh: Mesh | None, charge: float) -> None:
        frame = np.zeros(1, FRAME) if mesh is None else frame_of(mesh, fixed_point_scale(charge))
        self._runtime.upload_into(self._inputs, np.concatenate([frame.view(np.uint8), numbers.view(np.uint8)]))

    def _meet(self, remote: RemoteState) -> None:
        """Take up what is known of the other shards, if it is news."""
        if remote is self._met:
            return
        news = {
            "moments": np.ascontiguousarray(remote.patch_moments, np.float32),
            "counts": np.ascontiguousarray(remote.patch_counts, np.float32),
            "points": np.ascontiguousarray(remote.points, np.float32),
            "weights": np.ascontiguousarray(remote.weights, np.float32),
        }
        for name, array in news.items():
            there = self._meeting.get(name)
            if there is not None and there.shape == array.shape:
                self._runtime.upload_into(there, array)
            else:
                self._meeting[name] = self._runtime.upload(array)
                self._replays.clear()
        points = news["points"]
        # The box of the others' charges is all that the choice of the mesh asks of them.
        corners = [[axis.min(), axis.max()] for axis in points.T] if len(points) else [[]] * self._dim
        self._meeting["corners"] = np.array(corners, np.float32).T
        self._charge = self._n + float(news["weights"].sum(dtype=np.float64))
        self._met = remote

    def _repel_by_means(self, epoch: int, shares: Any, z: Any) -> None:
        assert self._means is not None  # noqa: S101 - made for this repulsion
        met = self._meeting
        self._means(self._positions, met["moments"], met["counts"], epoch, shares, z, self._repulsion)

    def _sum(self, values: Any, offset: float) -> None:
        """Write Σ values + offset, summed in float64, as Z."""
        n = self._n
        self._launch("sum_rows", n, values, np.int64(n), self._partials)
        self._launch("total", 1, self._partials, np.int64(count_blocks(n)), np.float64(offset), self._z)

    def _move(self, edges: Any, z: Any) -> None:
        """Step all rows by R and these edges, and look at them."""
        self._launch(
            "move", _LANES * self._n, self._positions, self._velocity, np.int64(self._n), self._repulsion,
            self._ptr, edges, self._far_ptr, self._far_edges, self._meeting["moments"], self._numbers, z,
            self._moved, self._velocity,
        )  # fmt: skip
        self._look_at(self._moved)

    def _look_at(self, positions: Any) -> None:
        n, out = self._n, self._report.on_device
        self._launch(
            "watch", self._watch_items, positions, np.int64(n), np.int64(sample_step(n)), out["sample"], out["box"]
        )
        if n_patches := len(out["patches"]):
            self._launch(
                "patch_moments", _PATCH_LANES * n_patches, positions, self._rows_by_patch, self._patch_offsets,
                np.int64(n_patches), out["patches"],
            )  # fmt: skip

    def _read_report(self) -> None:
        self._told = self._report.split(self._runtime.download(self._report.buffer))

    def _replay(self, name: str, work: Callable[[], None]) -> None:
        key = (name, self._parity)
        if key not in self._replays:
            self._replays[key] = self._runtime.capture(work)
        self._replays[key]()

    def _launch(self, kernel: str, n_items: int, *args: Any) -> None:
        self._runtime.launch(kernel, self._dim, n_items, *args)


def _numbers(step: StepParams) -> np.ndarray:
    """Return `NUMBERS` (1,) of what a step says; the rest is zero."""
    numbers = np.zeros(1, NUMBERS)
    numbers["attract"], numbers["rate"] = step.exaggeration, step.learning_rate
    numbers["momentum"], numbers["max_step_norm"] = step.momentum, step.max_step_norm
    return numbers
