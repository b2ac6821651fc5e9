"""The neighbours stage of one shard: search, graph, and the pull of foreign cells, as artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.base import ShardGraph
from nomad_dask.backends.choose import backend_of_worker
from nomad_dask.cluster import report, worker_threads
from nomad_dask.neighbors.foreign import NEAREST, fit_beta, foreign_cells, nearest_of_each
from nomad_dask.neighbors.graph import symmetric_graph
from nomad_dask.partition.cells import sample_neighbors, working_rows
from nomad_dask.partition.exchange import shard_file
from nomad_dask.partition.store import ShardVectors
from nomad_dask.plan import Run
from nomad_dask.workspace import Artifact, Workspace

_BETA_ROWS = 1000
_BETA_NEIGHBORS = 15
_BETA_SAMPLE = 20_000
GRAPH_FILES = ("indptr", "indices", "weights", "near_cells", "near_weights")


@dataclass(frozen=True)
class AllCells:
    """The cells of all shards, numbered shard by shard.

    Attributes
    ----------
    centroids : ndarray of float32 (cells, n_dims)
    counts : ndarray of int64 (cells,)
    edges : ndarray of int64 (n_shards + 1,)
        Shard s has the cells ``edges[s]`` to ``edges[s + 1]``.
    """

    centroids: np.ndarray
    counts: np.ndarray
    edges: np.ndarray


def all_cells(run: Run) -> AllCells:
    """Read the cells of all shards."""
    shards = range(run.plan.n_shards)
    offsets = [np.load(run.file(shard_file(s, "cell_offsets"))) for s in shards]
    edges = np.concatenate([[0], np.cumsum([len(o) - 1 for o in offsets])]).astype(np.int64)
    return AllCells(
        np.concatenate([np.load(run.file(shard_file(s, "centroids"))) for s in shards]),
        np.concatenate([np.diff(o) for o in offsets]),
        edges,
    )


def beta_of_sample(run: Run) -> float:
    """Return the β of foreign attraction, from the neighbours of sampled rows within the sample."""
    vectors = np.load(run.file("sample/vectors.npy"), mmap_mode="r")
    sample = working_rows(vectors[:: max(1, len(vectors) // _BETA_SAMPLE)], run.params.metric)
    cells = all_cells(run)
    queries = np.arange(0, len(sample), max(1, len(sample) // _BETA_ROWS))
    neighbors = sample_neighbors(sample, queries, _BETA_NEIGHBORS)
    asked, places = np.unique(neighbors, return_inverse=True)
    middle = cells.centroids.mean(axis=0)
    centered = cells.centroids - middle
    norms = np.einsum("ij,ij->i", centered, centered) / 2
    owners = np.concatenate(
        [
            (norms - (sample[part] - middle) @ centered.T).argmin(axis=1)
            for part in np.array_split(asked, 1 + len(asked) // 2048)
        ]
    )
    return fit_beta(sample[queries], owners[places.reshape(neighbors.shape)], cells.centroids, cells.counts)


def connect_shard(run: Run, shard: int, beta: float | None) -> tuple[list[Artifact], dict[str, Any]]:
    """Find the neighbours of a shard's rows and write its graph; return the artifacts and what was measured."""
    params, plan = run.params, run.plan
    workspace = Workspace(run.workspace)
    vectors = ShardVectors(run.file(shard_file(shard, "vectors")), params.metric, plan.resident_bytes)
    offsets = np.load(run.file(shard_file(shard, "cell_offsets")))
    centroids = np.load(run.file(shard_file(shard, "centroids")))
    with backend_of_worker(run.device, worker_threads()) as backend:
        found = backend.search(vectors, offsets, centroids, params, plan.resident_bytes, report)
        near_cells = np.zeros((vectors.n_rows, 0), np.int32)
        near_weights = np.zeros((vectors.n_rows, 0), np.float32)
        if beta is not None:
            near_cells, near_weights = _pull_of_others(run, shard, vectors, offsets, beta)
    own_share = (1 - near_weights.sum(axis=1)).astype(np.float32)
    edges = symmetric_graph(found.ids, params.weights, own_share)
    arrays = [edges.indptr, edges.indices, edges.weights, near_cells, near_weights]
    made = [workspace.save(graph_file(shard, w), a) for w, a in zip(GRAPH_FILES, arrays, strict=True)]
    if params.normalizer == "point":
        made.append(workspace.save(graph_file(shard, "forward"), edges.forward))
    return made, {
        "rows": vectors.n_rows,
        "recall": found.recall,
        "n_probes": found.n_probes,
        "rounds": found.rounds,
        "edges": len(edges.indices),
        "foreign_share": float(near_weights.sum(axis=1).mean()) if near_weights.size else 0.0,
    }


def _pull_of_others(
    run: Run, shard: int, vectors: ShardVectors, offsets: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    cells = all_cells(run)
    first, last = int(cells.edges[shard]), int(cells.edges[shard + 1])
    near = nearest_of_each(cells.centroids, first, last)
    out_cells = np.zeros((vectors.n_rows, NEAREST), np.int32)
    out_weights = np.zeros((vectors.n_rows, NEAREST), np.float32)
    for c, (a, b) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        rows = vectors.read(int(a), int(b))
        out_cells[a:b], out_weights[a:b] = foreign_cells(
            rows, cells.centroids, cells.counts, near[c], (first, last), beta
        )
    return out_cells, out_weights


def graph_file(shard: int, what: str) -> str:
    """Return the name of an artifact of a shard's graph."""
    return f"graph/{shard:04d}.{what}.npy"


def load_graph(run: Run, shard: int) -> ShardGraph:
    """Read the graph of a shard."""
    indptr, indices, weights, near_cells, near_weights = (
        np.load(run.file(graph_file(shard, what))) for what in GRAPH_FILES
    )
    cells = all_cells(run)
    first, last = int(cells.edges[shard]), int(cells.edges[shard + 1])
    near = nearest_of_each(cells.centroids[first:last], 0, last - first)
    exact = np.full((last - first, run.params.n_exact_cells), -1, np.int64)
    exact[:, : near.shape[1]] = near[:, : run.params.n_exact_cells]
    exact[:, 0] = np.arange(last - first)
    point = run.params.normalizer == "point"
    return ShardGraph(
        cell_offsets=np.load(run.file(shard_file(shard, "cell_offsets"))),
        global_cells=np.arange(first, last),
        exact_cells=exact,
        indptr=indptr,
        indices=indices,
        weights=weights,
        forward=np.load(run.file(graph_file(shard, "forward"))) if point else None,
        near_cells=near_cells,
        near_weights=near_weights,
    )
