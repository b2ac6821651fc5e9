"""Edges between shards: each shard writes its directed edges, then combines those of both directions by patch."""

from __future__ import annotations

import numpy as np

from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.neighbors.graph_files import CROSS_SHARD_FILES, OUTGOING_FILES, graph_file
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
    first_rows = np.append(0, np.cumsum(catalog.shard_rows()))
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
    """Sum the attraction of a shard's rows to each patch of other shards, over edges in both directions."""
    import scipy.sparse as sp

    counts = load_patch_counts(run)
    n_rows = int(np.load(run.file(shard_file(shard, "cell_offsets")))[-1])
    rows, patches = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    weights = [np.zeros(0, np.float32)]
    for other in linked_shards(run, shard):
        patch_of_row = np.load(run.file(graph_file(other, "patch_of_row")))
        first_patch = other * counts.shape[1]
        rows_out, other_rows_out, weights_out = load_directed_edges(run, shard, other)
        other_rows_in, rows_in, weights_in = load_directed_edges(run, other, shard)
        rows += [rows_out, rows_in]
        patches += [first_patch + patch_of_row[r].astype(np.int64) for r in (other_rows_out, other_rows_in)]
        weights += [weights_out, weights_in]
    edges = sp.coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(patches))),
        shape=(n_rows, counts.size),
    ).tocsr()
    edges.sum_duplicates()
    arrays = (edges.indptr.astype(np.int64), edges.indices.astype(np.int32), edges.data.astype(np.float32))
    folder = ArtifactFolder(run.workspace)
    return [folder.save(graph_file(shard, name), array) for name, array in zip(CROSS_SHARD_FILES, arrays, strict=True)]
