"""What every run measures of itself, and what to change when a figure is bad.

The figures: recall of the neighbour search, shard imbalance, pieces of the neighbour graph that nothing
connects, and whether K-Means has settled.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.cluster import Cluster
from nomad_dask.errors import NomadWarning
from nomad_dask.neighbors.stage import graph_file
from nomad_dask.params import Params
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.workspace import Workspace

# Shards are balanced by the sample: those of the rows may be this far off.
MAX_IMBALANCE = 1.2
RECALL_SLACK = 0.05
# A piece of less than this share of the rows is small, and so many rows in such pieces are too many.
SMALL_PIECE = 0.01
MAX_IN_SMALL_PIECES = 0.2
_EDGES_AT_ONCE = 1 << 22
_ROWS_AT_ONCE = 1 << 20


def components_of_shard(run: RunContext, shard: int) -> np.ndarray:
    """Find the pieces of a shard's own graph and write the piece of each row; return the rows of each piece.

    Edges are read in parts of about two a row, and each part joins pieces that those before it left apart: memory
    does not grow with the number of edges.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    indptr, indices = (RowFile.open(run.file(graph_file(shard, what))) for what in ("indptr", "indices"))
    n = len(np.load(run.file(graph_file(shard, "indptr")), mmap_mode="r", allow_pickle=False)) - 1
    labels, count, first = np.arange(n, dtype=np.int32), n, 0
    while first < n:
        starts = indptr.read(first, min(first + _ROWS_AT_ONCE, n) + 1)
        edges = max(_EDGES_AT_ONCE, 2 * n)
        rows = min(len(starts) - 1, max(1, int(np.searchsorted(starts, starts[0] + edges, side="right")) - 1))
        here = np.repeat(labels[first : first + rows], np.diff(starts[: rows + 1]))
        there = labels[indices.read(starts[0], starts[rows])]
        new = here != there
        if new.any():
            ends = here[new], there[new]
            joined = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
            count, numbers = connected_components(joined, directed=False)
            labels = numbers.astype(np.int32)[labels]
        first += rows
    Workspace(run.workspace).save(_pieces_file(shard), labels)
    return np.bincount(labels, minlength=count)


def components_joined_across_shards(run: RunContext, shard: int) -> np.ndarray:
    """Return which pieces edges to other shards join: (pairs, 4) shard and piece here, shard and piece there."""
    out_from, out_to = (RowFile.open(run.file(graph_file(shard, what))) for what in ("out_from", "out_to"))
    edges = np.load(run.file(graph_file(shard, "out_edges")), allow_pickle=False)
    own = np.load(run.file(_pieces_file(shard)), allow_pickle=False)
    found = [np.empty((0, 4), np.int64)]
    for other in range(run.plan.n_shards):
        if edges[other] == edges[other + 1]:
            continue
        there = np.load(run.file(_pieces_file(other)), allow_pickle=False)
        for a in range(int(edges[other]), int(edges[other + 1]), _EDGES_AT_ONCE):
            b = min(a + _EDGES_AT_ONCE, int(edges[other + 1]))
            pairs = np.unique(np.stack([own[out_from.read(a, b)], there[out_to.read(a, b)]], axis=1), axis=0)
            numbers = np.broadcast_to(np.array([shard, other]), pairs.shape)
            found.append(np.stack([numbers[:, 0], pairs[:, 0], numbers[:, 1], pairs[:, 1]], axis=1))
    return np.concatenate(found)


def graph_components(run: RunContext, cluster: Cluster) -> dict[str, Any]:
    """Return how the neighbour graph of all shards falls apart.

    Returns
    -------
    dict
        ``components``: pieces that no edge joins. ``outside_largest``: share of the rows outside the largest.
        ``in_small_components``: share of the rows in pieces of less than a hundredth of all rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    jobs = [(run, s) for s in range(run.plan.n_shards)]
    sizes = cluster.run(components_of_shard, jobs)
    rows = np.concatenate(sizes)
    if run.plan.n_shards > 1 and run.params.cross_shard_attraction:
        starts = np.cumsum([0, *map(len, sizes)])
        pairs = np.concatenate(cluster.run(components_joined_across_shards, jobs))
        here, there = starts[pairs[:, 0]] + pairs[:, 1], starts[pairs[:, 2]] + pairs[:, 3]
        joined = coo_array((np.ones(len(pairs), np.int8), (here, there)), shape=(len(rows), len(rows)))
        _, labels = connected_components(joined, directed=False)
        rows = np.bincount(labels, rows)
    for s in range(run.plan.n_shards):
        run.file(_pieces_file(s)).unlink()
    total = rows.sum()
    return {
        "components": len(rows),
        "outside_largest": float(1 - rows.max() / total),
        "in_small_components": float(rows[rows < SMALL_PIECE * total].sum() / total),
    }


def _pieces_file(shard: int) -> str:
    return graph_file(shard, "pieces")


def quality_warnings(measured: dict[str, Any], params: Params) -> list[str]:
    """Return what is bad among the figures of a run, each with what to change.

    Parameters
    ----------
    measured : dict
        Figures by name; those that are not there are not judged.
    params : Params
        Of the run.
    """
    found = []
    recall = measured.get("recall", 1.0)
    if params.n_probes is None and recall < params.target_recall - RECALL_SLACK:
        found.append(
            f"The neighbour search found {recall:.0%} of the true neighbours, {params.target_recall:.0%} were wanted: "
            f"give more probes (n_probes={2 * max(1, round(measured.get('n_probes', 1)))}) or larger cells (cell_size)."
        )
    imbalance = measured.get("imbalance", 1.0)
    if imbalance > MAX_IMBALANCE:
        found.append(
            f"The largest shard has {imbalance:.2f} times the mean rows, so the others wait for it: give more cells "
            f"(n_cells={2 * measured.get('n_cells', 1)}) or fewer shards (n_shards). Rows that are all alike stay "
            "together whatever you give."
        )
    scattered = measured.get("in_small_components", 0.0)
    if scattered > MAX_IN_SMALL_PIECES:
        found.append(
            f"{scattered:.0%} of the rows are in small pieces of the neighbour graph that nothing joins "
            f"({measured['components']:,} pieces), and where these lie in the map means nothing: give more neighbours "
            f"(n_neighbors={2 * params.n_neighbors}), more probes (n_probes), or look for duplicates."
        )
    if not measured.get("kmeans_converged", True):
        found.append(
            f"K-Means has not settled: one more round would move the centroids by {measured['kmeans_shift']:.0%} of "
            "the width of their cells. Give fewer cells (n_cells, or more cell_size)."
        )
    return found


def warn(measured: dict[str, Any], params: Params) -> None:
    """Warn of every figure that is bad."""
    for text in quality_warnings(measured, params):
        warnings.warn(text, NomadWarning, stacklevel=3)
