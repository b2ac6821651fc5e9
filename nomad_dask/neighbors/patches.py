"""Patches: small groups of nearby rows, whose mean represents them in other shards."""

from __future__ import annotations

import numpy as np
from numba import njit

from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.cross_shard_edges import linked_shards, load_directed_edges
from nomad_dask.neighbors.graph_files import PATCH_FILES, graph_file
from nomad_dask.neighbors.shard_graph import load_edge_weights
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.plan import N_PATCHES
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.manifest import Artifact

# Share of a shard's patches for its linked rows, which have edges to other shards; the other rows only repel.
_LINKED_SHARE = 15 / 16


def build_patches(run: RunContext, shard: int) -> list[Artifact]:
    """Group a shard's rows into patches, smaller ones where rows have edges to other shards."""
    folder = ArtifactFolder(run.workspace)
    cell_offsets = np.load(run.file(shard_file(shard, "cell_offsets")))
    if run.params.repulsion_method == "means":
        patch_of_row = np.repeat(np.arange(len(cell_offsets) - 1, dtype=np.int32), np.diff(cell_offsets))
        n_patches = int(np.diff(load_cell_catalog(run).shard_offsets).max())
    elif run.plan.n_shards == 1:  # no other shard needs patches
        patch_of_row, n_patches = np.zeros(0, np.int32), 0
    else:
        indptr, indices = (np.load(run.file(graph_file(shard, name))) for name in ("indptr", "indices"))
        weights = load_edge_weights(run, shard)
        n_patches = min(N_PATCHES // run.plan.n_shards, int(load_cell_catalog(run).shard_rows().max()))
        cross_weights = _sum_cross_weights(run, shard, len(indptr) - 1)
        patch_of_row = make_patches(cross_weights, indptr, indices, weights, n_patches)
    counts = np.bincount(patch_of_row, minlength=n_patches)
    arrays: tuple[np.ndarray, ...] = (patch_of_row, counts)
    return [folder.save(graph_file(shard, name), array) for name, array in zip(PATCH_FILES, arrays, strict=True)]


def _sum_cross_weights(run: RunContext, shard: int, n_rows: int) -> np.ndarray:
    """Return the total weight (n_rows,) float64 of each row's edges to other shards."""
    totals = np.zeros(n_rows)
    for other in linked_shards(run, shard):
        rows_out, _, weights_out = load_directed_edges(run, shard, other)
        _, rows_in, weights_in = load_directed_edges(run, other, shard)
        totals += np.bincount(rows_out, weights_out, n_rows) + np.bincount(rows_in, weights_in, n_rows)
    return totals


def make_patches(
    cross_weights: np.ndarray, indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, max_patches: int
) -> np.ndarray:
    """Return the patch (n_rows,) int32 of each row: at most `max_patches` patches.

    Linked rows are grouped with their nearest neighbors, which end up near them in the map, in groups as small as
    possible, those with the smallest cross weight first. The other rows are only seen from a distance, so
    consecutive rows in cell order are grouped.

    Parameters
    ----------
    cross_weights : ndarray of float64 (n_rows,)
        Total weight of each row's edges to other shards; 0 for rows without any.
    indptr, indices, weights : ndarray
        The shard's graph.
    max_patches : int
    """
    n = len(cross_weights)
    if n <= max_patches:
        return np.arange(n, dtype=np.int32)
    is_linked = cross_weights > 0
    n_linked = int(is_linked.sum())
    order = np.argsort(cross_weights, kind="stable")[n - n_linked :]
    max_groups = min(n_linked, int(max_patches * _LINKED_SHARE))
    patch_of_row = np.full(n, -1, np.int32)
    n_groups, max_size = 0, max(1, n_linked // max(max_groups, 1))
    largest_size = int(np.diff(indptr).max()) + 1  # a row and all its neighbors
    while n_linked:
        patch_of_row[:] = -1
        n_groups = int(_group_rows(order, cross_weights, indptr, indices, weights, max_size, max_groups, patch_of_row))
        if n_groups <= max_groups:
            break
        max_size += 1
        if max_size > largest_size:  # too many rows have no ungrouped neighbors: group linked rows in cell order too
            patch_of_row[is_linked] = np.arange(n_linked) * max_groups // n_linked
            n_groups = max_groups
            break
    rest = np.flatnonzero(patch_of_row < 0)
    patch_of_row[rest] = n_groups + np.arange(len(rest)) * (max_patches - n_groups) // max(len(rest), 1)
    return patch_of_row


@njit(nogil=True, cache=True)
def _group_rows(order, cross_weights, indptr, indices, weights, max_size, max_groups, patch_of_row):  # type: ignore[no-untyped-def]
    """Group rows in `order` with their nearest ungrouped neighbors, until the remaining rows can be single.

    Returns the number of groups: at most `max_groups`, if groups of `max_size` rows make that possible.
    """
    n_groups, n_ungrouped = 0, len(order)
    for i in order:
        if patch_of_row[i] >= 0:
            continue
        patch_of_row[i] = n_groups
        n_ungrouped -= 1
        for _ in range(max_size - 1):
            if n_groups + 1 + n_ungrouped <= max_groups:
                break
            best, best_weight = -1, np.float32(0)
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if cross_weights[j] > 0 and patch_of_row[j] < 0 and weights[e] > best_weight:
                    best, best_weight = j, weights[e]
            if best < 0:
                break
            patch_of_row[best] = n_groups
            n_ungrouped -= 1
        n_groups += 1
    return n_groups
