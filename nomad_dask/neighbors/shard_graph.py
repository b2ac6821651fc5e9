"""Read the graph of a shard for its layout."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import ShardGraph
from nomad_dask.backends.joint import CrossRows, JointShard
from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.neighbors.graph_files import CONDITIONAL_P, CROSS_ROW_FILES, PATCH_FILES, WEIGHT_CODES, graph_file
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext


def load_graph(run: RunContext, shard: int, backend: Backend) -> ShardGraph:
    """Read the graph of a shard, and find the nearest cells of each of its cells."""
    indptr = np.load(run.file(graph_file(shard, "indptr")))
    with_codes = run.params.normalization == "global"
    indices, weights = (_load_edges(run, shard, name) for name in ("indices", "weights"))
    patch_of_row, patch_counts = (np.load(run.file(graph_file(shard, name))) for name in PATCH_FILES)
    cross_indptr = np.load(run.file(graph_file(shard, "cross_indptr")))
    cross_patches, cross_weights = (_load_edges(run, shard, name) for name in ("cross_patches", "cross_weights"))
    return ShardGraph(
        cell_offsets=np.load(run.file(shard_file(shard, "cell_offsets"))),
        patch_of_row=patch_of_row,
        patch_counts=patch_counts,
        first_patch=shard * len(patch_counts),
        sampled_cells=_sampled_cells(load_cell_catalog(run), shard, run.params.n_sampled_cells, backend),
        indptr=indptr,
        indices=indices,
        weights=weights,
        weight_codes=_load_edges(run, shard, WEIGHT_CODES) if with_codes else None,
        conditional_p=None if with_codes else np.load(run.file(graph_file(shard, CONDITIONAL_P))),
        cross_indptr=cross_indptr,
        cross_patches=cross_patches,
        cross_weights=cross_weights,
    )


def load_joint_shard(run: RunContext, shard: int) -> JointShard:
    """Read what a joint layout needs of the graph of a shard: no patches, and the rows of other shards instead."""
    none = np.zeros(0, np.int32)
    indptr = np.load(run.file(graph_file(shard, "indptr")))
    graph = ShardGraph(
        cell_offsets=np.load(run.file(shard_file(shard, "cell_offsets"))),
        patch_of_row=none,
        patch_counts=none.astype(np.int64),
        first_patch=0,
        sampled_cells=none.astype(np.int64).reshape(0, 1),
        indptr=indptr,
        indices=_load_edges(run, shard, "indices"),
        weights=np.load(run.file(graph_file(shard, "weights"))),
        weight_codes=_load_edges(run, shard, WEIGHT_CODES),
        conditional_p=None,
        cross_indptr=np.zeros(len(indptr), np.int64),
        cross_patches=none,
        cross_weights=none.astype(np.float32),
    )
    cross_rows = CrossRows(*(np.load(run.file(graph_file(shard, name))) for name in CROSS_ROW_FILES))
    return JointShard(shard, graph, cross_rows)


def has_joint_shards(run: RunContext) -> bool:
    """Return whether `load_joint_shard` finds the edges to rows of other shards, which runs on CPUs do not write."""
    files = [graph_file(shard, name) for shard in range(run.plan.n_shards) for name in CROSS_ROW_FILES]
    return all(run.file(file).exists() for file in files)


def load_patch_counts(run: RunContext) -> np.ndarray:
    """Return the number of rows (n_shards, n_patches) float32 in each patch of each shard."""
    shards = range(run.plan.n_shards)
    return np.stack([np.load(run.file(graph_file(s, "patch_counts"))) for s in shards]).astype(np.float32)


def _load_edges(run: RunContext, shard: int, name: str) -> np.ndarray:
    """Read an array of edges, or map its file if the edges do not fit in memory."""
    return np.asarray(np.load(run.file(graph_file(shard, name)), mmap_mode=None if run.plan.edges_in_memory else "r"))


def _sampled_cells(catalog: CellCatalog, shard: int, n_sampled: int, backend: Backend) -> np.ndarray:
    """Return for each cell of a shard its nearest cells (n_cells, n_sampled) there, itself first; -1 fills up."""
    first, last = catalog.cells_of(shard)
    sampled = np.full((last - first, n_sampled), -1, np.int64)
    if n_sampled > 1:
        nearest = backend.nearest_cells(catalog.centroids[first:last], np.arange(last - first), n_sampled)
        sampled[:, : nearest.shape[1]] = nearest
    sampled[:, 0] = np.arange(last - first)
    return sampled


def load_edge_weights(run: RunContext, shard: int) -> np.ndarray:
    """Return the weight (n_edges,) float32 of each edge of a shard's graph."""
    weights = np.load(run.file(graph_file(shard, "weights")))
    if run.params.normalization == "point":
        return np.asarray(weights)
    return np.asarray(np.take(weights, np.load(run.file(graph_file(shard, WEIGHT_CODES)))))
