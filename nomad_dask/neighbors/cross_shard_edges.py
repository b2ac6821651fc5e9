"""Edges between shards: each shard writes its directed edges, then combines those of both directions by patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nomad_dask.backends.weight_codes import encode_weights
from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.neighbors.graph_files import CROSS_ROW_FILES, CROSS_SHARD_FILES, OUTGOING_FILES, graph_file
from nomad_dask.neighbors.shard_graph import load_patch_counts
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.manifest import Artifact


def save_outgoing_edges(
    folder: ArtifactFolder, catalog: CellCatalog, shard: int, edges: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> list[Artifact]:
    """Write the directed edges of a shard's rows into other shards, sorted by shard; see `WeightedLists.outside`."""
    rows, ids, weights = edges
    first_rows = catalog.first_rows()
    targets = (ids.astype(np.int64) + first_rows[shard]) % first_rows[-1]
    owners = np.searchsorted(first_rows, targets, side="right") - 1
    order = np.argsort(owners, kind="stable")
    arrays = (
        rows[order],
        (targets - first_rows[owners])[order].astype(np.int32),
        weights[order],
        np.searchsorted(owners[order], np.arange(len(first_rows))).astype(np.int64),
    )
    return [folder.save(graph_file(shard, name), array) for name, array in zip(OUTGOING_FILES, arrays, strict=True)]


def linked_shards(run: RunContext, shard: int) -> list[int]:
    """Return the shards with which a shard has edges."""
    return [s for s in range(run.plan.n_shards) if s != shard] if run.params.cross_shard_attraction else []


def load_directed_edges(run: RunContext, source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directed edges from one shard to another: source rows, target rows, p(target|source)."""
    source_rows, target_rows, weights, offsets = (
        np.load(run.file(graph_file(source, name)), mmap_mode="r") for name in OUTGOING_FILES
    )
    part = slice(int(offsets[target]), int(offsets[target + 1]))
    return np.array(source_rows[part]), np.array(target_rows[part]), np.array(weights[part])


def build_cross_shard_edges(run: RunContext, shard: int) -> list[Artifact]:
    """Sum the attraction of a shard's rows to each patch of other shards, over edges in both directions.

    For a joint layout, the attraction to each row of other shards is summed too.
    """
    counts = load_patch_counts(run)
    folder = ArtifactFolder(run.workspace)

    def patches_of(other: int) -> np.ndarray:
        patch_of_row: np.ndarray = np.load(run.file(graph_file(other, "patch_of_row")))
        return np.asarray(other * counts.shape[1] + patch_of_row.astype(np.int64))

    edges = _sum_edges(run, shard, counts.size, patches_of)
    arrays = (edges.indptr.astype(np.int64), edges.indices.astype(np.int32), edges.data.astype(np.float32))
    artifacts = [folder.save(graph_file(shard, name), a) for name, a in zip(CROSS_SHARD_FILES, arrays, strict=True)]
    if not run.wants_joint_layout:
        return artifacts
    first_rows = load_cell_catalog(run).first_rows()
    edges = _sum_edges(run, shard, int(first_rows[-1]), lambda s: np.arange(first_rows[s], first_rows[s + 1]))
    # Coded as the weights within the shard, so that a map does not depend on where its shards are divided.
    levels = np.load(run.file(graph_file(shard, "weights")))
    codes = encode_weights(np.clip(edges.data.astype(np.float32), levels[0], levels[-1]), levels)
    arrays = (edges.indptr.astype(np.int64), edges.indices.astype(np.uint32), codes)
    artifacts += [folder.save(graph_file(shard, name), a) for name, a in zip(CROSS_ROW_FILES, arrays, strict=True)]
    return artifacts


def _sum_edges(run: RunContext, shard: int, n_columns: int, columns_of: Callable[[int], np.ndarray]) -> Any:
    """Return the weights of a shard's edges to others as a CSR matrix, of edges in both directions.

    `columns_of` returns the column of each row of another shard. Edges of a row to the same column are added.
    """
    import scipy.sparse as sp

    n_rows = int(np.load(run.file(shard_file(shard, "cell_offsets")))[-1])
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    weights = [np.zeros(0, np.float32)]
    for other in linked_shards(run, shard):
        column_of_row = columns_of(other)
        rows_out, other_rows_out, weights_out = load_directed_edges(run, shard, other)
        other_rows_in, rows_in, weights_in = load_directed_edges(run, other, shard)
        rows += [rows_out, rows_in]
        columns += [column_of_row[other_rows_out], column_of_row[other_rows_in]]
        weights += [weights_out, weights_in]
    edges = sp.coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(n_rows, n_columns)
    ).tocsr()
    edges.sum_duplicates()
    return edges
