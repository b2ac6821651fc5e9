"""Disk space that each stage writes: formulas, compared with real fits in the tests."""

from __future__ import annotations

from nomad_dask.planning.plan import CODED_EDGE_BYTES, MAX_AXES, Plan


def sample_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the sample as it is read, and of what is made of it and kept.

    One that is wider than float32 is converted. So are a few others, which needs less than the stage of the shards.
    """
    as_read = plan.n_dims * plan.source_itemsize if plan.source_itemsize > plan.stored_itemsize else 0
    return plan.sample_rows * as_read + kept_sample_disk_bytes(plan)


def kept_sample_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the sample, of what is given for each row, and of the copy of the source if there is one."""
    given = plan.n_rows * (8 * plan.n_given + (4 * plan.n_components if plan.has_given_init else 0))
    copy = plan.n_rows * plan.n_dims * plan.source_itemsize if plan.copies_source else 0
    return copy + given + plan.sample_rows * (_vector_bytes(plan) + 8)


def coarse_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the vectors of the coarse map, and of a whole run of them."""
    return plan.coarse_rows * (4 * _vector_bytes(plan) + _row_bytes(plan) + _graph_bytes(plan))


def cells_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the axes and the centroids."""
    return 4 * plan.n_cells * (2 * MAX_AXES + plan.n_components) + 4 * plan.n_dims * MAX_AXES


def shards_disk_bytes(plan: Plan) -> int:
    """Return the bytes of all vectors sorted by block, and again by shard."""
    return 2 * plan.n_rows * (_vector_bytes(plan) + _row_bytes(plan)) + 4 * plan.n_cells * plan.n_dims * 2


def kept_shards_disk_bytes(plan: Plan) -> int:
    """Return the bytes that remain when the sorted blocks are merged and removed."""
    return shards_disk_bytes(plan) // 2


def neighbors_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the graph in both directions, and of the lists and edges between shards."""
    graph = _graph_bytes(plan)
    # Shards that search across write edges into others, and their lists for each other, of two rounds at most.
    # The edges are written by patch, and with a joint layout by row too.
    edges = (16 + 2 * CODED_EDGE_BYTES) * plan.n_linked_rows + 32
    lists = 2 * 10 * (plan.n_neighbors + 8) + 4 * plan.n_tail_neighbors
    kept_lists = 8 * plan.n_neighbors if plan.keeps_lists else 0
    return plan.n_rows * (graph + kept_lists + (edges + lists if plan.n_shards > 1 else 0))


def layout_disk_bytes(plan: Plan) -> int:
    """Return the bytes of two checkpoints."""
    return 2 * 8 * plan.n_components * plan.n_rows


def map_disk_bytes(plan: Plan) -> int:
    """Return the bytes of the map's file, which is not in the workspace."""
    return plan.n_rows * (4 * plan.n_components + 4)


def _vector_bytes(plan: Plan) -> int:
    return plan.n_dims * plan.stored_itemsize


def _row_bytes(plan: Plan) -> int:
    """Return the bytes of a row's number, cell, starting position and given neighbors."""
    return 8 * (1 + plan.n_components) + 4 + 8 * plan.n_given


def _graph_bytes(plan: Plan) -> int:
    """Return the bytes of a row's edges: their indices and codes of weights, or weights and p(j|i)."""
    return 2 * (CODED_EDGE_BYTES if plan.has_weight_codes else 12) * plan.n_linked_rows + 24
