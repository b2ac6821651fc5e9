"""The decisions behind a plan: how many shards and cells, how large a sample, a block and a coarse map."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.params import Params
from nomad_dask.planning.host_memory import (
    MESH_BYTES_PER_NODE,
    cache_bytes_for_batch,
    cache_row_bytes,
    layout_host_bytes,
    neighbors_host_bytes,
)
from nomad_dask.planning.plan import MAX_AXES, MIN_BATCH_ROWS, Plan
from nomad_dask.sources.base import Source

# A coarse start pays for large maps (algorithm §4b). It comes in between these numbers of rows, see `coarse_weight`.
COARSE_ABOVE, COARSE_FULL = 200_000, 800_000
COARSE_SHARE = 16
COARSE_MIN_ROWS = 1000
_ROWS_PER_WORKER = 5000
_MIN_ROWS_PER_SHARD = 100
# Shards consist of whole cells: of fewer cells their sizes differ too much.
_CELLS_PER_SHARD = 8
_SAMPLE_PER_CELL = 64
_MIN_SAMPLE_ROWS, _MAX_SAMPLE_ROWS = 20_000, 1_000_000
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 16 << 20, 256 << 20
# Memory for vectors where those of the smallest batch do not fit: more is not faster, as all are read again and again.
_MAX_PARTIAL_CACHE_BYTES = 1 << 30


def make_plan(source: Source, params: Params, n_workers: int, memory_bytes: int, given_tail: int = 0) -> Plan:
    """Decide the sizes of a run.

    Parameters
    ----------
    source : Source
    params : Params
    n_workers : int
        Workers of the cluster.
    memory_bytes : int
        Memory of the smallest worker.
    given_tail : int
        See `Plan`.

    Raises
    ------
    InputError
        More shards than rows, or other numbers that contradict each other.
    """
    n_rows, n_dims = source.n_rows, source.n_dims
    coarse_rows = n_coarse_rows(n_rows, params)
    draft = Plan(
        n_rows=n_rows,
        n_dims=n_dims,
        source_itemsize=source.dtype.itemsize,
        stored_itemsize=stored_itemsize(source.dtype),
        n_components=params.n_components,
        n_neighbors=params.n_neighbors,
        n_tail_neighbors=params.n_tail_neighbors,
        cross_shard_attraction=params.cross_shard_attraction,
        mesh_spacing=params.mesh_spacing,
        n_workers=n_workers,
        n_shards=1,
        n_cells=params.n_cells or n_rows // params.cell_size,
        n_axes=min(n_dims, MAX_AXES),
        block_rows=0,
        sample_rows=0,
        coarse_rows=coarse_rows,
        cache_bytes=0,
        edges_in_memory=True,
        has_weight_codes=params.normalization == "global",
        has_given_init=params.has_given_init,
        has_given_neighbors=params.has_given_neighbors,
        given_tail=given_tail,
    )
    draft = replace(draft, block_rows=_block_rows(n_rows, n_dims + 2 * draft.n_given, memory_bytes))
    n_shards = params.n_shards or max(1, min(n_workers, n_rows // _ROWS_PER_WORKER))
    n_cells = _n_cells(n_rows, n_shards, params)
    sample_rows = min(n_rows, max(_MIN_SAMPLE_ROWS, min(_MAX_SAMPLE_ROWS, n_cells * _SAMPLE_PER_CELL), coarse_rows))
    plan = replace(draft, n_shards=n_shards, n_cells=n_cells, sample_rows=sample_rows)
    plan = _with_batches(plan, memory_bytes)
    # With one normalizer per point, every epoch computes the weights anew, so edges on disk would save nothing.
    if plan.has_weight_codes and layout_host_bytes(plan) > memory_bytes:
        plan = replace(plan, edges_in_memory=False)
    room = memory_bytes - layout_host_bytes(plan)
    return replace(plan, max_mesh_nodes=max(plan.max_mesh_nodes, room // MESH_BYTES_PER_NODE))


def _n_cells(n_rows: int, n_shards: int, params: Params) -> int:
    """Return the number of cells, after checking that of the shards against it and against the rows."""
    if n_shards > 1 and n_shards * _MIN_ROWS_PER_SHARD > n_rows:
        raise InputError(
            f"n_shards={n_shards} for {n_rows} rows leaves fewer than {_MIN_ROWS_PER_SHARD} rows a shard: "
            f"give at most {max(1, n_rows // _MIN_ROWS_PER_SHARD)}."
        )
    min_cells = _CELLS_PER_SHARD * n_shards if n_shards > 1 else 2
    n_cells = params.n_cells or min(n_rows, max(round(n_rows / params.cell_size), min_cells))
    if n_cells > n_rows:
        raise InputError(f"n_cells={n_cells} is more than the {n_rows} rows: give at most {n_rows}.")
    if n_cells < n_shards:
        raise InputError(f"n_cells={n_cells} is fewer than the {n_shards} shards: give at least {n_shards}.")
    return n_cells


def _with_batches(plan: Plan, memory_bytes: int) -> Plan:
    """Return the plan with as few search batches as let the vectors of each be held in memory.

    Where that would take too many, their vectors are read from disk again and again.
    """

    def held(n_batches: int) -> Plan:
        batches = replace(plan, n_batches=n_batches)
        cache_bytes = max(cache_bytes_for_batch(batches), partial_cache_bytes)
        return replace(batches, cache_bytes=cache_bytes, region_rows=cache_bytes // cache_row_bytes(plan))

    def streamed(n_batches: int) -> Plan:
        return replace(plan, n_batches=n_batches, cache_bytes=partial_cache_bytes)

    partial_cache_bytes = min(_MAX_PARTIAL_CACHE_BYTES, memory_bytes // 8)
    counts = range(1, max(1, min(plan.n_cells // plan.n_shards, plan.shard_rows // MIN_BATCH_ROWS)) + 1)

    def holds_batch(n_batches: int) -> bool:
        return neighbors_host_bytes(held(n_batches)) <= memory_bytes

    def fits(n_batches: int) -> bool:
        return neighbors_host_bytes(streamed(n_batches)) <= memory_bytes

    n_held = bisect_left(counts, True, key=holds_batch) + 1
    if n_held <= counts[-1]:
        return held(n_held)
    return streamed(min(bisect_left(counts, True, key=fits) + 1, counts[-1]))


def _block_rows(n_rows: int, n_numbers: int, memory_bytes: int) -> int:
    """Return the rows of a block, of so many numbers each."""
    block_bytes = _MAX_BLOCK_BYTES
    while block_bytes > _MIN_BLOCK_BYTES and block_bytes > memory_bytes // 16:
        block_bytes //= 2
    return max(1, min(n_rows, block_bytes // (4 * n_numbers)))


def stored_itemsize(dtype: np.dtype) -> int:
    """Return the bytes of an element as the workspace stores it."""
    return min(dtype.itemsize, 4)


def n_coarse_rows(n_rows: int, params: Params) -> int:
    """Return how many rows are laid out before all others; 0 for none, as from given positions."""
    rows = n_rows // COARSE_SHARE
    is_wanted = params.coarse_init == "always" or (params.coarse_init == "auto" and n_rows > COARSE_ABOVE)
    return rows if is_wanted and not params.has_given_init and rows >= COARSE_MIN_ROWS else 0


def coarse_weight(n_rows: int, params: Params) -> float:
    """Return how much a map relies on its coarse map, from 0 to 1.

    With 0 it would start as small as without one, and have as many epochs; with 1 it starts as wide as its rows need,
    and the epochs only refine it. In between, both change gradually, so that maps of nearly as many rows are alike.
    """
    if not n_coarse_rows(n_rows, params):
        return 0.0
    if params.coarse_init == "always":
        return 1.0
    return min(1.0, math.log(n_rows / COARSE_ABOVE) / math.log(COARSE_FULL / COARSE_ABOVE))
