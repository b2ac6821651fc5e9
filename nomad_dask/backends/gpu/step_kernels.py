"""Launches of the kernels that move rows along the edges of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.gpu.device_edges import DeviceEdges
from nomad_dask.backends.gpu.device_shard import DeviceShard
from nomad_dask.backends.gpu.readback import EDGE_LANES
from nomad_dask.backends.gpu.runtime import count_blocks, reduction_threads


def move_by_mesh(shard: DeviceShard, potential: Any, partition_sum: Any) -> None:
    """Move all rows by their edges and by the repulsion read from a mesh `potential`.

    Parameters
    ----------
    shard : DeviceShard
    potential : array of float32
        On the padded mesh.
    partition_sum : array of float64 (1,)
        See `move_by_rows`.
    """
    points, graph, n = shard.points, shard.graph, shard.n_rows
    shard.launch(
        "step", EDGE_LANES * n, points.positions, points.velocity, np.int64(n), shard.inputs.frame, potential,
        *graph.edges, *graph.cross_edges, shard.remote.moments, shard.inputs.numbers, partition_sum,
        points.next_positions, points.velocity,
    )  # fmt: skip


def move_by_rows(shard: DeviceShard, repulsion: Any, edges: DeviceEdges, partition_sum: Any) -> None:
    """Move all rows by edges and by the repulsion of each row.

    Parameters
    ----------
    shard : DeviceShard
    repulsion : array of float32 (n_rows, dim)
    edges : DeviceEdges
        Those of the graph, or the same with other weights.
    partition_sum : array of float64 (1,) or None
        Z, or the shard's part of it if the `NUMBERS` say how it grows to Z; None if the normalization is already part
        of the repulsion.
    """
    points, graph, n = shard.points, shard.graph, shard.n_rows
    shard.launch(
        "move", EDGE_LANES * n, points.positions, points.velocity, np.int64(n), repulsion, *edges,
        *graph.cross_edges, shard.remote.moments, shard.inputs.numbers, partition_sum, points.next_positions,
        points.velocity,
    )  # fmt: skip


def measure_attraction_loss(shard: DeviceShard) -> None:
    """Write the partial sums of −Σ p log q to the report."""
    report, graph = shard.report, shard.graph
    shard.launch(
        "attraction_loss", EDGE_LANES * report.n_loss_rows, shard.points.positions, np.int64(shard.n_rows),
        np.int64(report.loss_stride), *graph.edges, *graph.cross_edges, shard.remote.moments, report.loss,
    )  # fmt: skip


def write_partition_sum(shard: DeviceShard, values: Any, offset: float) -> None:
    """Write Σ values + offset, summed in float64, to the report as Z."""
    n_partials = _write_partial_sums(shard, values)
    shard.launch("total", 1, shard.partials, np.int64(n_partials), np.float64(offset), shard.report.partition_sum)


def sum_rows(shard: DeviceShard, values: Any) -> float:
    """Return Σ values, summed in float64, on the host."""
    n_partials = _write_partial_sums(shard, values)
    return float(shard.runtime.download(shard.partials[:n_partials]).sum())


def _write_partial_sums(shard: DeviceShard, values: Any) -> int:
    """Write partial sums of `values` to ``shard.partials``, and return their number."""
    n = shard.n_rows
    n_threads = reduction_threads(n)
    shard.launch("sum_rows", n_threads, values, np.int64(n), shard.partials)
    return count_blocks(n_threads)
