"""The neighbours stage of a shard: find the neighbours, group rows into patches, link shards by them.

Edges of the layout never leave a shard. A neighbour that another shard owns attracts through the patch it
lies in, whose mean that shard tells after every epoch. The weights are exact, p(j|i) + p(i|j), because
neighbours are looked for across shards while the vectors are at hand on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.base import ShardGraph
from nomad_dask.cluster import report_progress, worker_backend, worker_threads
from nomad_dask.neighbors.graph import neighbor_weights, symmetric_graph
from nomad_dask.neighbors.halo import CellCatalog, halo_region, load_cell_catalog, nearest_cells
from nomad_dask.neighbors.nn_descent_rounds import load_neighbor_ids, load_shard
from nomad_dask.neighbors.patches import make_patches
from nomad_dask.neighbors.search import SearchState
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.plan import N_PATCHES
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.workspace import Workspace

GRAPH_FILES = ("indptr", "indices", "weights")
PATCH_FILES = ("patch_of_row", "patch_counts")
CROSS_SHARD_FILES = ("cross_indptr", "cross_patches", "cross_weights")
# Edges to other shards, sorted by the shard they lead to: own row, row there, p(there|own); and where each
# shard's begin.
_OUT_FILES = ("out_from", "out_to", "out_weights", "out_edges")


def graph_file(shard: int, what: str) -> str:
    """Return the name of an artifact of a shard's graph."""
    return f"graph/{shard:04d}.{what}.npy"


def uses_halo(run: RunContext) -> bool:
    """Return whether the rows of a shard look for neighbours in others, too."""
    return run.plan.n_shards > 1 and run.params.cross_shard_attraction


def build_graph(
    run: RunContext, shard: int, effort: SearchState | None = None
) -> tuple[list[Artifact], dict[str, Any]]:
    """Make a shard's own graph and its edges to other shards of its neighbour lists.

    Where shards search across, `probe` and `refine` have made these, and `effort` says how far they are; a
    shard that has nobody to ask makes them here.
    """
    params, plan = run.params, run.plan
    across = uses_halo(run)
    cells = load_cell_catalog(run)
    around = halo_region(cells, shard, across)
    if effort is not None:
        ids = load_neighbor_ids(run, cells, around, shard, effort.rounds)
    else:
        search = load_shard(run, shard, across).search
        with worker_backend(run.device, worker_threads(run.shard_threads)):
            lists, effort = search.complete(report_progress)
        ids = lists.ids
        del search, lists
    weights = neighbor_weights(ids, params.affinity)
    far = ids >= around.n_own
    edges = symmetric_graph(np.where(far, -1, ids), weights, with_conditional_p=params.normalization == "point")
    workspace = Workspace(run.workspace)
    arrays = (edges.indptr, edges.indices, edges.weights)
    made = [workspace.save(graph_file(shard, w), a) for w, a in zip(GRAPH_FILES, arrays, strict=True)]
    if edges.conditional_p is not None:
        made.append(workspace.save(graph_file(shard, "conditional_p"), edges.conditional_p))
    if across:
        rows, ranks = np.nonzero(far)
        places = ids[rows, ranks]
        slots = np.searchsorted(around.offsets, places, side="right") - 1
        numbers = around.cells[slots]
        there = places - around.offsets[slots] + cells.starts[numbers]
        owners = cells.shard_of(numbers)
        order = np.argsort(owners, kind="stable")
        out = (
            rows[order].astype(np.int32),
            there[order].astype(np.int32),
            weights[rows, ranks][order],
            np.searchsorted(owners[order], np.arange(plan.n_shards + 1)).astype(np.int64),
        )
        made += [workspace.save(graph_file(shard, w), a) for w, a in zip(_OUT_FILES, out, strict=True)]
    return made, {
        "rows": len(ids),
        "recall": effort.recall,
        "n_probes": effort.n_probes,
        "rounds": effort.rounds,
        "edges": len(edges.indices),
        "foreign_share": float(weights[far].sum() / max(weights.sum(), 1e-30)),
    }


def build_patches(run: RunContext, shard: int) -> list[Artifact]:
    """Group a shard's rows into patches, small ones where other shards look."""
    workspace = Workspace(run.workspace)
    offsets = np.load(run.file(shard_file(shard, "cell_offsets")))
    if run.params.repulsion_method == "means":
        patch_of_row = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        quota = int(np.diff(load_cell_catalog(run).edges).max())
    elif run.plan.n_shards == 1:  # nobody looks
        patch_of_row, quota = np.zeros(0, np.int32), 0
    else:
        indptr, indices, weights = (np.load(run.file(graph_file(shard, what))) for what in GRAPH_FILES)
        pulls = np.zeros(len(indptr) - 1)
        for other in _others(run, shard):
            here, _, out = _crossing(run, shard, other)
            _, back, into = _crossing(run, other, shard)
            pulls += np.bincount(here, out, len(pulls)) + np.bincount(back, into, len(pulls))
        quota = N_PATCHES // run.plan.n_shards
        patch_of_row = make_patches(pulls, indptr, indices, weights, quota)
    counts = np.bincount(patch_of_row, minlength=quota)
    arrays: tuple[np.ndarray, ...] = (patch_of_row, counts)
    return [workspace.save(graph_file(shard, w), a) for w, a in zip(PATCH_FILES, arrays, strict=True)]


def _others(run: RunContext, shard: int) -> list[int]:
    """Return the shards that a shard has edges with."""
    return [s for s in range(run.plan.n_shards) if s != shard] if run.params.cross_shard_attraction else []


def _crossing(run: RunContext, source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the edges from one shard to another: rows here, rows there, p(there|here)."""
    begin, end, weights, edges = (np.load(run.file(graph_file(source, w)), mmap_mode="r") for w in _OUT_FILES)
    part = slice(int(edges[target]), int(edges[target + 1]))
    return np.array(begin[part]), np.array(end[part]), np.array(weights[part])


def build_cross_shard_edges(run: RunContext, shard: int) -> list[Artifact]:
    """Gather the pulls of other shards' patches on a shard's rows, along edges of both directions."""
    import scipy.sparse as sp

    counts = patch_counts(run)
    n_rows = int(np.load(run.file(shard_file(shard, "cell_offsets")))[-1])
    rows, patches = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    weights = [np.zeros(0, np.float32)]
    for other in _others(run, shard):
        patch_there = np.load(run.file(graph_file(other, "patch_of_row")))
        here, there, out = _crossing(run, shard, other)
        away, back, into = _crossing(run, other, shard)
        rows += [here, back]
        patches += [other * counts.shape[1] + patch_there[p].astype(np.int64) for p in (there, away)]
        weights += [out, into]
    pulls = sp.coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(patches))),
        shape=(n_rows, counts.size),
    ).tocsr()
    pulls.sum_duplicates()
    arrays = (pulls.indptr.astype(np.int64), pulls.indices.astype(np.int32), pulls.data.astype(np.float32))
    workspace = Workspace(run.workspace)
    return [workspace.save(graph_file(shard, w), a) for w, a in zip(CROSS_SHARD_FILES, arrays, strict=True)]


def patch_counts(run: RunContext) -> np.ndarray:
    """Return the rows (shards, patches) float32 of the patches of all shards."""
    shards = range(run.plan.n_shards)
    return np.stack([np.load(run.file(graph_file(s, "patch_counts"))) for s in shards]).astype(np.float32)


def load_graph(run: RunContext, shard: int) -> ShardGraph:
    """Read the graph of a shard."""
    indptr = np.load(run.file(graph_file(shard, "indptr")))
    indices, weights = (_edges(run, shard, what) for what in ("indices", "weights"))
    patch_of_row, counts = (np.load(run.file(graph_file(shard, what))) for what in PATCH_FILES)
    cross_indptr = np.load(run.file(graph_file(shard, "cross_indptr")))
    cross_patches, cross_weights = (_edges(run, shard, what) for what in ("cross_patches", "cross_weights"))
    point = run.params.normalization == "point"
    return ShardGraph(
        cell_offsets=np.load(run.file(shard_file(shard, "cell_offsets"))),
        patch_of_row=patch_of_row,
        patch_counts=counts,
        first_patch=shard * len(counts),
        sampled_cells=_sampled_cells(load_cell_catalog(run), shard, run.params.n_sampled_cells),
        indptr=indptr,
        indices=indices,
        weights=weights,
        conditional_p=np.load(run.file(graph_file(shard, "conditional_p"))) if point else None,
        cross_indptr=cross_indptr,
        cross_patches=cross_patches,
        cross_weights=cross_weights,
    )


def _edges(run: RunContext, shard: int, what: str) -> np.ndarray:
    """Return an array of the graph, or a view of its file, of which the system holds as much as there is room for."""
    return np.asarray(np.load(run.file(graph_file(shard, what)), mmap_mode=None if run.plan.edges_in_memory else "r"))


def _sampled_cells(cells: CellCatalog, shard: int, n_exact: int) -> np.ndarray:
    """Return for each own cell the own cells (cells, n_exact) nearest to it, itself first, -1 for none."""
    first, last = int(cells.edges[shard]), int(cells.edges[shard + 1])
    exact = np.full((last - first, n_exact), -1, np.int64)
    if n_exact > 1:
        near = nearest_cells(cells.centroids[first:last], 0, last - first, n_exact)
        exact[:, : near.shape[1]] = near
    exact[:, 0] = np.arange(last - first)
    return exact
