"""The task that builds the graph of a shard from the neighbor lists.

Edges of the layout never leave a shard: a neighbor in another shard attracts through the patch that contains it,
whose mean the other shard sends after every epoch. The weights p(j|i) + p(i|j) are exact, because the lists contain
neighbors in other shards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.cluster import report_progress, worker_backend
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.cross_shard_edges import save_outgoing_edges
from nomad_dask.neighbors.graph import Edges, join_tail, neighbor_weights, symmetric_graph
from nomad_dask.neighbors.graph_files import GRAPH_FILES, graph_file
from nomad_dask.neighbors.halo import halo_region
from nomad_dask.neighbors.list_files import load_neighbor_ids
from nomad_dask.neighbors.nn_descent_rounds import load_shard
from nomad_dask.neighbors.search_state import SearchState
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.workspace import Workspace


def uses_halo(run: RunContext) -> bool:
    """Return whether the rows of a shard also search for neighbors in other shards."""
    return run.plan.n_shards > 1 and run.params.cross_shard_attraction


def build_graph(run: RunContext, shard: int, state: SearchState | None = None) -> tuple[list[Artifact], dict[str, Any]]:
    """Build a shard's graph and its edges into other shards.

    Parameters
    ----------
    run : RunContext
    shard : int
    state : SearchState, optional
        Of the finished search across shards, if there was one. By default the shard is searched here, without a halo.

    Returns
    -------
    artifacts : list of Artifact
    facts : dict
        Measurements of the search and the graph.
    """
    catalog = load_cell_catalog(run)
    region = halo_region(catalog, shard, uses_halo(run))
    if state is None:
        nearest, tail, state = _search_shard(run, shard)
    else:
        nearest, tail = load_neighbor_ids(run, catalog, region, shard, state.rounds)
    ids = join_tail(nearest, tail)
    weights = neighbor_weights(ids, run.params.affinity, tail.shape[1])
    is_outside = ids >= region.n_shard_rows
    with_conditional_p = run.params.normalization == "point"
    edges = symmetric_graph(np.where(is_outside, -1, ids), weights, with_conditional_p)
    workspace = Workspace(run.workspace)
    artifacts = _save_graph(workspace, shard, edges)
    if uses_halo(run):
        artifacts += save_outgoing_edges(workspace, catalog, region, shard, np.where(is_outside, ids, -1), weights)
    return artifacts, {
        "rows": len(ids),
        "recall": state.recall,
        "n_probes": state.n_probes,
        "rounds": state.rounds,
        "edges": len(edges.indices),
        "foreign_share": float(weights[is_outside].sum() / max(weights.sum(), 1e-30)),
    }


def _search_shard(run: RunContext, shard: int) -> tuple[np.ndarray, np.ndarray, SearchState]:
    """Return the neighbors (n_rows, k) int32 of a shard's rows within the shard, and the tail of their lists."""
    search = load_shard(run, shard, with_halo=False).search
    with worker_backend(run.device, run.shard_threads):
        lists, tail, state = search.run(report_progress)
    return lists.ids, tail, state


def _save_graph(workspace: Workspace, shard: int, edges: Edges) -> list[Artifact]:
    arrays = (edges.indptr, edges.indices, edges.weights)
    artifacts = [
        workspace.save(graph_file(shard, name), array) for name, array in zip(GRAPH_FILES, arrays, strict=True)
    ]
    if edges.conditional_p is not None:
        artifacts.append(workspace.save(graph_file(shard, "conditional_p"), edges.conditional_p))
    return artifacts
