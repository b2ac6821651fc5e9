"""One shard on the device: its graph, its points, and what the steps of all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nomad_dask.backends.data import ShardGraph
from nomad_dask.backends.gpu.device_edges import DeviceEdges, upload_values
from nomad_dask.backends.gpu.epoch_inputs import EpochInputs
from nomad_dask.backends.gpu.readback import EDGE_LANES, EpochReport
from nomad_dask.backends.gpu.remote_arrays import RemoteArrays
from nomad_dask.backends.gpu.runtime import Runtime, count_blocks, reduction_threads
from nomad_dask.params import Params


@dataclass(frozen=True)
class DeviceGraph:
    """The arrays of a `ShardGraph` that the kernels read.

    Attributes
    ----------
    edges : DeviceEdges
        Edges within the shard.
    cross_edges : tuple of arrays or of None
        ``ptr``, ``targets`` and ``weights`` of the edges to patches of other shards; None if there are no such edges.
    conditional_p : array of float32 (n_edges,) or None
        p(j|i) of `edges`.
    patch_offsets : array of int64 (n_patches + 1,)
        The rows of patch p are ``rows_by_patch[patch_offsets[p] : patch_offsets[p + 1]]``.
    rows_by_patch : array of int32 (n_rows,)
    """

    edges: DeviceEdges
    cross_edges: tuple[Any, Any, Any]
    conditional_p: Any | None
    patch_offsets: Any
    rows_by_patch: Any

    @classmethod
    def from_graph(cls, graph: ShardGraph, runtime: Runtime, with_conditional_p: bool) -> Self:
        """Upload a graph."""
        conditional_p, cross_edges = None, (None, None, None)
        if len(graph.cross_patches):
            cross_edges = DeviceEdges.upload(
                graph.cross_indptr, graph.cross_patches, graph.cross_weights, None, runtime
            )[:3]
        if with_conditional_p:
            assert graph.conditional_p is not None  # noqa: S101 - made for one normalizer per point
            conditional_p = upload_values(graph.conditional_p, np.float32, runtime)
        xp, patch_of_row = runtime.xp, runtime.upload(graph.patch_of_row)
        rows_by_patch = xp.argsort(patch_of_row, kind="stable")
        n_patches = len(graph.patch_counts)
        return cls(
            edges=DeviceEdges.upload(graph.indptr, graph.indices, graph.weights, graph.weight_codes, runtime),
            cross_edges=cross_edges,
            conditional_p=conditional_p,
            patch_offsets=xp.searchsorted(patch_of_row[rows_by_patch], xp.arange(n_patches + 1, dtype=np.int32)),
            rows_by_patch=rows_by_patch.astype(np.int32),
        )


class PointBuffers:
    """Positions and velocities.

    A step writes the new positions to a second buffer, so that every row sees the old positions of the others.

    Parameters
    ----------
    n_rows, dim : int
    runtime : Runtime

    Attributes
    ----------
    positions, next_positions, velocity : array of float32 (n_rows, dim)
    parity : int
        Which of the two buffers holds the positions: 0 or 1.
    """

    def __init__(self, n_rows: int, dim: int, runtime: Runtime) -> None:
        self._runtime = runtime
        self.positions: Any = runtime.xp.zeros((n_rows, dim), np.float32)
        self.next_positions: Any = runtime.xp.zeros((n_rows, dim), np.float32)
        self.velocity: Any = runtime.xp.zeros((n_rows, dim), np.float32)
        self.parity = 0

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Copy positions and velocities, both (n_rows, dim), to the device."""
        self._runtime.upload_into(self.positions, np.ascontiguousarray(positions, np.float32))
        self._runtime.upload_into(self.velocity, np.ascontiguousarray(velocity, np.float32))

    def swap(self) -> None:
        """Make the next positions the current ones."""
        self.positions, self.next_positions = self.next_positions, self.positions
        self.parity = 1 - self.parity


@dataclass(frozen=True)
class RowForces:
    """Potential U and repulsion R = −½∇U of every row, for steps that do not read them from a mesh.

    Attributes
    ----------
    potential : array of float32 (n_rows,)
    repulsion : array of float32 (n_rows, dim)
    """

    potential: Any
    repulsion: Any

    @classmethod
    def allocate(cls, n_rows: int, dim: int, runtime: Runtime) -> Self:
        """Return arrays of zeros."""
        xp = runtime.xp
        return cls(potential=xp.zeros(n_rows, np.float32), repulsion=xp.zeros((n_rows, dim), np.float32))


@dataclass(frozen=True)
class DeviceShard:
    """The parts of a shard's layout that all kinds of steps work on.

    Attributes
    ----------
    runtime : Runtime
    n_rows, n_total, dim : int
        Rows of the shard and of the whole map, and dimensions of the map.
    graph : DeviceGraph
    points : PointBuffers
    remote : RemoteArrays
    inputs : EpochInputs
    report : EpochReport
    partials : array of float64 (blocks,)
        Scratch for sums over rows or edges.
    """

    runtime: Runtime
    n_rows: int
    n_total: int
    dim: int
    graph: DeviceGraph
    points: PointBuffers
    remote: RemoteArrays
    inputs: EpochInputs
    report: EpochReport
    partials: Any

    @classmethod
    def from_graph(cls, graph: ShardGraph, params: Params, n_total: int, runtime: Runtime) -> Self:
        """Upload a graph and allocate the arrays of its layout."""
        n, dim = graph.n_rows, params.n_components
        return cls(
            runtime=runtime,
            n_rows=n,
            n_total=n_total,
            dim=dim,
            graph=DeviceGraph.from_graph(graph, runtime, params.normalization == "point"),
            points=PointBuffers(n, dim, runtime),
            remote=RemoteArrays(dim, runtime),
            inputs=EpochInputs(runtime),
            report=EpochReport(n, len(graph.patch_counts), dim, runtime),
            partials=runtime.xp.zeros(count_blocks(reduction_threads(EDGE_LANES * n)), np.float64),
        )

    @property
    def total_charge(self) -> float:
        """Sum of the charges of the shard's rows and of the remote points."""
        return self.n_rows + self.remote.total_weight

    def launch(self, kernel: str, n_items: int, *args: Any) -> None:
        """Launch a kernel for the dimensions of the map."""
        self.runtime.launch(kernel, self.dim, n_items, *args)

    def measure(self, positions: Any) -> None:
        """Measure positions for the report."""
        self.report.measure(positions, self.graph.rows_by_patch, self.graph.patch_offsets)
