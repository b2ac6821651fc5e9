"""What a run will do and need, decided before anything runs. Small pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nomad_dask.backends.memory_model import layout_device_bytes
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.errors import InputError
from nomad_dask.params import Params
from nomad_dask.planning.resource_model import (
    HALO,
    MAX_AXES,
    SHARD_OVER,
    ProblemSize,
    disk_bytes_of_stages,
    host_bytes_of_stages,
    neighbors_host_bytes,
    peak_disk_bytes,
)
from nomad_dask.sources.base import Source

# A coarse start pays above this many rows (algorithm §4b).
COARSE_ABOVE = 200_000
COARSE_SHARE = 16
COARSE_MIN_ROWS = 1000
# Patches of near rows whose means stand for their rows in other shards; what an epoch exchanges depends on
# this number, not on the rows.
N_PATCHES = 65536
_SAMPLE_PER_CELL = 64
# Shards are made of whole cells: of fewer they come out too unequal.
_CELLS_PER_SHARD = 8
# More shards than one a worker, for want of memory, are not made smaller than this.
MIN_SHARD_ROWS = 10_000
_SAMPLE_MIN, _SAMPLE_MAX = 20_000, 1_000_000
_BLOCK_BYTES = 256 << 20
_CACHE_BYTES = 1 << 30
# Shards to make, at most, so that the neighbour search holds all rows of each.
_MOST_TO_HOLD = 16
_LEAST_BLOCK_BYTES = 16 << 20
# Room that the box of a map takes, in map units^dim: at least, and by the row; twice what was measured.
_MAP_ROOM = {2: (50_000, 4), 3: (4_000_000, 100)}
# On a GPU, copies of a block and of the sample while they are worked on; and work areas of the libraries.
_DEVICE_BLOCKS, _DEVICE_SAMPLES = 3, 4
# Axes are made from fewer than this many rows of the sample; cells from all, along the axes.
_AXES_SAMPLE_ROWS = 20_000
_DEVICE_BASE_BYTES = 256 << 20


@dataclass(frozen=True)
class StageResources:
    """What one stage needs.

    Attributes
    ----------
    name : str
    disk_bytes : int
        Most that it writes.
    host_bytes : int
        Most memory of a process in it.
    device_bytes : int
        Most GPU memory of a worker in it, if it computes on one.
    """

    name: str
    disk_bytes: int
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes
    ----------
    n_rows, n_dims : int
        Of the source.
    n_shards, n_cells, n_axes : int
        Shards; K-Means cells aimed at; leading axes in which cells are made.
    block_rows : int
        Rows read at once by a worker.
    sample_rows : int
        Rows from which axes and cells are made.
    coarse_rows : int
        Rows laid out before all others; 0 for no coarse start.
    cache_bytes : int
        Memory for vectors in the neighbour search, on each worker; its tables take as much again.
    edges_in_memory : bool
        Whether a worker holds the edges of its shards in memory during the layout, or reads them in every epoch.
    worker_bytes, disk_bytes : int
        Most memory a worker needs, and most disk the workspace takes.
    device_bytes : int
        Most GPU memory a worker needs, if it computes on one.
    stages : tuple of StageResources
        The same by stage.
    sizes : Sizes
        What they follow from.
    """

    n_rows: int
    n_dims: int
    n_shards: int
    n_cells: int
    n_axes: int
    block_rows: int
    sample_rows: int
    coarse_rows: int
    cache_bytes: int
    edges_in_memory: bool
    worker_bytes: int
    disk_bytes: int
    device_bytes: int
    stages: tuple[StageResources, ...] = ()
    sizes: ProblemSize | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def make_plan(source: Source, params: Params, n_workers: int, memory_bytes: int) -> Plan:
    """Decide the sizes of a run.

    Parameters
    ----------
    source : Source
    params : Params
    n_workers : int
        Workers of the cluster.
    memory_bytes : int
        Memory of the smallest of them.

    Raises
    ------
    InputError
        More shards than rows, or other numbers that contradict each other.
    """
    n, d = source.n_rows, source.n_dims
    resident = min(_CACHE_BYTES, memory_bytes // 8)
    n_shards = params.n_shards or _shards_that_fit(n, d, params, n_workers, memory_bytes, resident)
    if n_shards > 1 and n_shards * 100 > n:
        raise InputError(
            f"n_shards={n_shards} for {n} rows leaves fewer than 100 rows a shard: give at most {max(1, n // 100)}."
        )
    fewest = _CELLS_PER_SHARD * n_shards if n_shards > 1 else 2
    n_cells = params.n_cells or min(n, max(round(n / params.cell_size), fewest))
    if n_cells > n:
        raise InputError(f"n_cells={n_cells} is more than the {n} rows: give at most {n}.")
    if n_cells < n_shards:
        raise InputError(f"n_cells={n_cells} is fewer than the {n_shards} shards: give at least {n_shards}.")
    coarse_rows = n_coarse_rows(n, params.coarse_init)
    sample_rows = min(n, max(_SAMPLE_MIN, min(_SAMPLE_MAX, n_cells * _SAMPLE_PER_CELL), coarse_rows))
    block_bytes = _BLOCK_BYTES
    while block_bytes > _LEAST_BLOCK_BYTES and block_bytes > memory_bytes // 16:
        block_bytes //= 2
    block_rows = max(1, min(n, block_bytes // (4 * d)))
    sizes = ProblemSize(
        n, d, stored_itemsize(source.dtype), params.n_components, params.n_neighbors, n_shards, n_workers, n_cells,
        block_rows, sample_rows, coarse_rows, resident, params.cross_shard_attraction, True,
    )  # fmt: skip
    # One normaliser a point makes weights anew in every epoch: there it would save nothing.
    if params.normalization == "global" and host_bytes_of_stages(sizes)["layout"] > memory_bytes:
        sizes = replace(sizes, edges_in_memory=False)
    device = _device_bytes(source, params, n_shards, n_workers, sizes.shard_rows, block_rows, sample_rows)
    disk, host = disk_bytes_of_stages(sizes), host_bytes_of_stages(sizes)
    stages = tuple(StageResources(name, disk[name], host[name], device.get(name, 0)) for name in host)
    return Plan(
        n_rows=n,
        n_dims=d,
        n_shards=n_shards,
        n_cells=n_cells,
        n_axes=min(d, MAX_AXES),
        block_rows=block_rows,
        sample_rows=sample_rows,
        coarse_rows=coarse_rows,
        cache_bytes=resident,
        edges_in_memory=sizes.edges_in_memory,
        worker_bytes=max(host.values()),
        disk_bytes=peak_disk_bytes(disk),
        device_bytes=max(device.values()),
        stages=stages,
        sizes=sizes,
    )


def _shards_that_fit(n: int, d: int, params: Params, n_workers: int, memory_bytes: int, resident: int) -> int:
    """Return one shard a worker, or as many more as the neighbour search of one needs to fit into its memory.

    Where there have to be more, a few beyond that let it hold all rows of a shard, and be several times as quick.
    """
    n_shards = max(1, min(n_workers, n // 5000))
    n_cells = params.n_cells or n // params.cell_size

    def rows_of(count: int) -> int:
        return math.ceil((SHARD_OVER if count > 1 else 1) * n / count)

    def fits(count: int) -> bool:
        rows = rows_of(count)
        needed = neighbors_host_bytes(rows, d, params.n_neighbors, resident, count > 1, n_cells, n)
        return needed <= memory_bytes

    most = n // MIN_SHARD_ROWS
    if fits(n_shards) or most <= n_shards:
        return n_shards
    fewest = n_shards + 1 + bisect_left(range(n_shards + 1, most), True, key=fits)
    held = (count for count in range(fewest, min(most, _MOST_TO_HOLD) + 1) if HALO * 4 * d * rows_of(count) <= resident)
    return next(held, fewest)


def stored_itemsize(dtype: np.dtype[Any]) -> int:
    """Return the bytes of an element as the workspace keeps it."""
    return min(dtype.itemsize, 4)


def _device_bytes(
    source: Source, params: Params, n_shards: int, n_workers: int, shard_rows: int, block_rows: int, sample_rows: int
) -> dict[str, int]:
    """Return the most GPU memory that a worker needs by stage; the neighbour search makes do with what is left."""
    dim = params.n_components
    some, by_row = _MAP_ROOM[dim]
    n_nodes = int(min(MAX_MESH_NODES, (some + by_row * source.n_rows) / params.mesh_spacing**dim))
    n_patches = N_PATCHES if n_shards > 1 else 1
    layout = layout_device_bytes(shard_rows, 2 * params.n_neighbors * shard_rows, n_nodes, n_patches, dim)
    block = _DEVICE_BLOCKS * block_rows * source.n_dims * (4 + source.dtype.itemsize)
    sample = 4 * max(min(sample_rows, _AXES_SAMPLE_ROWS) * source.n_dims, sample_rows * min(source.n_dims, MAX_AXES))
    needed = {
        "sample": block,
        "cells": _DEVICE_SAMPLES * sample,
        "shards": block,
        "layout": math.ceil(n_shards / n_workers) * layout,
    }
    return {stage: size + _DEVICE_BASE_BYTES for stage, size in needed.items()}


def n_coarse_rows(n_rows: int, coarse: str) -> int:
    """Return how many rows are laid out before all others; 0 for none."""
    rows = n_rows // COARSE_SHARE
    wanted = coarse == "always" or (coarse == "auto" and n_rows > COARSE_ABOVE)
    return rows if wanted and rows >= COARSE_MIN_ROWS else 0
