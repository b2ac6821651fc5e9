"""Memory of a process in each stage: formulas, compared with real fits in the tests.

The driver and its worker are one process on a plain machine, so every figure covers both.
"""

from __future__ import annotations

import math

from nomad_dask.planning.plan import (
    CODED_EDGE_BYTES,
    GIVEN_CHUNK_ROWS,
    HALO_CELLS,
    MAX_AXES,
    MIN_RANGE_ROWS,
    N_RANGES,
    Plan,
)

# A process with everything imported and its kernels loaded: measured 300 to 340 MiB.
BASE_BYTES = 360 << 20
# The halo of a batch has fewer cells than `HALO_CELLS` times this power of its own cells. Measured: 261 around 29 cells
# (492 by this), 370 around 50 (612), 456 around 200 (1,065).
_HALO_POWER = 0.4
# With more dimensions than this the filter of the search has fewer axes.
_MAX_FILTER_COLUMNS = 190
# The axes are made from this many rows at most.
AXES_SAMPLE_ROWS = 20_000
_PROJECT_ROWS = 1 << 15
# A block as it is read, as float32, sorted, and what table readers hold of it besides.
_BLOCK_COPIES = 3
# Distances of some rows of the sample to all others, from which cells are assigned to shards.
_SHARD_ASSIGNMENT_BYTES = 128 << 20
# Neighbor lists of a batch as they are found, and in the numbers of all rows.
_LIST_BYTES_PER_NEIGHBOR = 20
# A given neighbor and its distance, as they are read, checked and sorted, or renumbered.
_GIVEN_BYTES_PER_NEIGHBOR = 64
# Of a row of a range for which the graph is built: the edges to it, as they are found and sorted, and those of both
# directions.
_GRAPH_BYTES_PER_NEIGHBOR = 40
# Positions, velocities and forces of a row during the layout.
_LAYOUT_BYTES_PER_ROW = 50
# An edge whose weight is no code: its index, its weight, p(j|i) and the weight of the epoch.
_EDGE_BYTES = 16
# The same of a row whose edges are read from disk in every epoch.
_LAYOUT_BYTES_WITHOUT_EDGES = 80
# The number of a row, its initial position, and what is computed with them.
_START_BYTES_PER_ROW = 40
# Summaries that a driver of several shards holds until the next checkpoint, and the mesh of the field.
_LAYOUT_BYTES = 128 << 20
# The mesh of every shard covers the whole map: charges, potential, transforms; one shard at a time.
_MESH_BYTES_PER_ROW = 45
MESH_BYTES_PER_NODE = 30
_MAP_BYTES_PER_ROW = 24


def sample_host_bytes(plan: Plan) -> int:
    """Return the memory for copies of a block, 8 bytes a row to draw the sample, and given positions."""
    given = 4 * plan.n_components if plan.has_given_init else 0
    return BASE_BYTES + max(_block_bytes(plan), _given_bytes(plan)) + (8 + given) * plan.n_rows


def coarse_host_bytes(plan: Plan) -> int:
    """Return the memory for a whole run of the rows of the coarse map."""
    search = _search_bytes(plan, min(plan.coarse_rows, plan.batch_rows), n_cells=0, with_halo=False)
    copies = min(_block_bytes(plan), 2 * plan.coarse_rows * _row_bytes(plan))
    clustering, graph = _clustering_bytes(plan, plan.coarse_rows), _graph_bytes(plan, plan.coarse_rows)
    return BASE_BYTES + max(search, copies, clustering, graph)


def cells_host_bytes(plan: Plan) -> int:
    """Return the memory to fit axes and cells to the sample."""
    return BASE_BYTES + _clustering_bytes(plan, plan.sample_rows)


def shards_host_bytes(plan: Plan) -> int:
    """Return the memory for copies of a block, and the centroids in both coordinate systems."""
    return BASE_BYTES + _block_bytes(plan) + 4 * plan.n_cells * (plan.n_dims + min(plan.n_dims, MAX_AXES))


def neighbors_host_bytes(plan: Plan) -> int:
    """Return the memory to search the neighbors of a batch, or to build the graph of a shard, which comes after it.

    Given neighbors are not searched for.
    """
    if plan.has_given_neighbors:  # their recall is measured, and they are renumbered
        compared = min(plan.cache_bytes, 4 * plan.n_dims * plan.shard_rows) + 4 * plan.n_cells * plan.n_dims
        numbered = 4 * plan.n_rows + max(_given_bytes(plan), _graph_bytes(plan, plan.shard_rows))
        return BASE_BYTES + max(compared, numbered)
    search = _search_bytes(plan, plan.batch_rows, plan.n_cells, plan.has_halos)
    return BASE_BYTES + max(search, _graph_bytes(plan, plan.shard_rows))


def layout_host_bytes(plan: Plan) -> int:
    """Return the memory for graph and state of all shards of a worker, and the mesh of the field."""
    rows = min(plan.n_rows, plan.shards_per_worker * plan.shard_rows)
    mesh = min(plan.n_rows * _MESH_BYTES_PER_ROW, plan.max_mesh_nodes * MESH_BYTES_PER_NODE)
    return BASE_BYTES + rows * _layout_row_bytes(plan) + (mesh + _LAYOUT_BYTES if plan.n_shards > 1 else 0)


def start_cache_bytes(plan: Plan) -> int:
    """Return the memory for vectors from which a shard's initial positions are computed, before it has a graph."""
    return plan.shard_rows * (_layout_row_bytes(plan) - _START_BYTES_PER_ROW)


def map_host_bytes(plan: Plan) -> int:
    """Return the memory for positions, cells and row numbers of all rows."""
    return BASE_BYTES + plan.n_rows * _MAP_BYTES_PER_ROW + plan.shard_rows * 40


def cache_bytes_for_batch(plan: Plan) -> int:
    """Return the cache in which the search holds the vectors of a batch and its halo, their filter, and rounds."""
    return _searched_rows(plan, plan.batch_rows, plan.has_halos) * cache_row_bytes(plan)


def cache_row_bytes(plan: Plan) -> int:
    """Return the cache for a row of a batch or its halo."""
    return max(4 * plan.n_dims, 4 * _filter_columns(plan), math.ceil(_filter_row_bytes(plan) / 2))


def _searched_rows(plan: Plan, rows: int, with_halo: bool) -> int:
    """Return the rows that a search visits: `rows` rows, and those of their halo."""
    if not with_halo:
        return rows
    own_cells = max(1.0, plan.n_cells / (plan.n_shards * plan.n_batches))
    region = rows * (1 + HALO_CELLS * math.pow(own_cells, _HALO_POWER - 1))
    return min(plan.n_rows, math.ceil(region))


def _filter_columns(plan: Plan) -> int:
    """Return the axes of the filter and the norm of the residual; 0 where dimensions are few: rows are their filter."""
    return _MAX_FILTER_COLUMNS + 1 if plan.n_dims > _MAX_FILTER_COLUMNS else 0


def _filter_row_bytes(plan: Plan) -> int:
    """Return the memory for a row in the filter and in a round of the search."""
    return 4 * _filter_columns(plan) + 10 * plan.n_neighbors + 300


def _layout_row_bytes(plan: Plan) -> int:
    if not plan.edges_in_memory:
        return _LAYOUT_BYTES_WITHOUT_EDGES
    edge_bytes = CODED_EDGE_BYTES if plan.has_weight_codes else _EDGE_BYTES
    return _LAYOUT_BYTES_PER_ROW + 2 * edge_bytes * plan.n_linked_rows


def _row_bytes(plan: Plan) -> int:
    return plan.n_dims * (4 + plan.stored_itemsize) + 8 * plan.n_given


def _block_bytes(plan: Plan) -> int:
    return plan.block_rows * (_BLOCK_COPIES * _row_bytes(plan) + 8 * min(plan.n_dims, MAX_AXES))


def _search_bytes(plan: Plan, rows: int, n_cells: int, with_halo: bool) -> int:
    """Return the memory to search the neighbors of `rows` rows.

    Vectors and their filter are held in memory where both fit into the cache, and else read cell by cell.
    """
    searched = _searched_rows(plan, rows, with_halo)
    vectors = min(plan.cache_bytes, 4 * plan.n_dims * searched)
    filtered = min(2 * plan.cache_bytes, _filter_row_bytes(plan) * searched)
    lists = _LIST_BYTES_PER_NEIGHBOR * plan.n_linked_rows * rows
    # The centroids of all cells, once more while they are read, and of each batch those around it, as they are and
    # as filtered. And the position of each row in its batch.
    centroids = 4 * n_cells * plan.n_dims * (5 if with_halo else 1)
    row_positions = 4 * plan.n_rows if with_halo else 0
    return int(vectors + filtered + lists + centroids + row_positions)


def _given_bytes(plan: Plan) -> int:
    """Return the memory for some lists of given neighbors."""
    return _GIVEN_BYTES_PER_NEIGHBOR * plan.n_given * min(plan.n_rows, GIVEN_CHUNK_ROWS)


def _graph_bytes(plan: Plan, rows: int) -> int:
    """Return the memory to build the graph of a range of `rows` rows."""
    return _GRAPH_BYTES_PER_NEIGHBOR * plan.n_linked_rows * min(rows, max(MIN_RANGE_ROWS, rows // N_RANGES))


def _clustering_bytes(plan: Plan, rows: int) -> int:
    """Return the largest of: rows for the axes; coordinates and a block; coordinates and their copies."""
    axes = min(plan.n_dims, MAX_AXES)
    coordinates = 4 * axes * rows
    for_axes = 3 * 4 * plan.n_dims * min(rows, AXES_SAMPLE_ROWS)
    block = _row_bytes(plan) * min(rows, _PROJECT_ROWS)
    assignment = _SHARD_ASSIGNMENT_BYTES if plan.n_shards > 1 else 0
    return max(for_axes, 2 * coordinates + block, 4 * coordinates) + assignment
