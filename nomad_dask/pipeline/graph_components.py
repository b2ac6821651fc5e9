"""Connected components of the neighbor graph of all shards, counted without holding the graph in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.cluster import Cluster
from nomad_dask.neighbors.graph_files import graph_file
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder

# A component of less than this share of the rows is small.
SMALL_SHARE = 0.01
_EDGES_PER_READ = 1 << 22
_ROWS_PER_READ = 1 << 20


def graph_components(run: RunContext, cluster: Cluster) -> dict[str, Any]:
    """Return measurements of the components of the neighbor graph of all shards.

    Returns
    -------
    dict
        ``components``: their number. ``outside_largest``: share of the rows outside the largest.
        ``in_small_components``: share of the rows in components of less than a hundredth of all rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    jobs = [(run, shard) for shard in range(run.plan.n_shards)]
    sizes_of_shards = cluster.run(components_of_shard, jobs)
    sizes = np.concatenate(sizes_of_shards)
    if run.plan.searches_across_shards:
        first = np.cumsum([0, *map(len, sizes_of_shards)])
        links = np.concatenate(cluster.run(components_joined_across_shards, jobs))
        ends = first[links[:, 0]] + links[:, 1], first[links[:, 2]] + links[:, 3]
        graph = coo_array((np.ones(len(links), np.int8), ends), shape=(len(sizes), len(sizes)))
        _, labels = connected_components(graph, directed=False)
        sizes = np.bincount(labels, sizes)
    for _, shard in jobs:
        run.file(_labels_file(shard)).unlink()
    n_rows = sizes.sum()
    return {
        "components": len(sizes),
        "outside_largest": float(1 - sizes.max() / n_rows),
        "in_small_components": float(sizes[sizes < SMALL_SHARE * n_rows].sum() / n_rows),
    }


def components_of_shard(run: RunContext, shard: int) -> np.ndarray:
    """Find the components of a shard's own graph, write the label of each row, and return the sizes.

    About two edges per row are read at a time, and each read joins components that those before it left apart: memory
    does not grow with the number of edges.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    indptr, indices = (RowFile.open(run.file(graph_file(shard, name))) for name in ("indptr", "indices"))
    n_rows = len(np.load(run.file(graph_file(shard, "indptr")), mmap_mode="r", allow_pickle=False)) - 1
    max_edges = max(_EDGES_PER_READ, 2 * n_rows)
    labels, count, first = np.arange(n_rows, dtype=np.int32), n_rows, 0
    while first < n_rows:
        starts = indptr.read(first, min(first + _ROWS_PER_READ, n_rows) + 1)
        that_fit = int(np.searchsorted(starts, starts[0] + max_edges, side="right")) - 1
        read = min(len(starts) - 1, max(1, that_fit))
        sources = np.repeat(labels[first : first + read], np.diff(starts[: read + 1]))
        targets = labels[indices.read(starts[0], starts[read])]
        apart = sources != targets
        if apart.any():
            ends = sources[apart], targets[apart]
            graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
            count, joined = connected_components(graph, directed=False)
            labels = joined.astype(np.int32)[labels]
        first += read
    ArtifactFolder(run.workspace).save(_labels_file(shard), labels)
    return np.bincount(labels, minlength=count)


def components_joined_across_shards(run: RunContext, shard: int) -> np.ndarray:
    """Return the components that edges to other shards join.

    Returns
    -------
    ndarray of int64 (n_links, 4)
        This shard and its component, the other shard and its component.
    """
    sources, targets = (RowFile.open(run.file(graph_file(shard, name))) for name in ("out_from", "out_to"))
    offsets = np.load(run.file(graph_file(shard, "out_edges")), allow_pickle=False)
    labels = np.load(run.file(_labels_file(shard)), allow_pickle=False)
    links = [np.empty((0, 4), np.int64)]
    for other in range(run.plan.n_shards):
        if offsets[other] == offsets[other + 1]:
            continue
        other_labels = np.load(run.file(_labels_file(other)), allow_pickle=False)
        for start in range(int(offsets[other]), int(offsets[other + 1]), _EDGES_PER_READ):
            stop = min(start + _EDGES_PER_READ, int(offsets[other + 1]))
            ends = np.stack([labels[sources.read(start, stop)], other_labels[targets.read(start, stop)]], axis=1)
            pairs = np.unique(ends, axis=0)
            columns = np.full(len(pairs), shard), pairs[:, 0], np.full(len(pairs), other), pairs[:, 1]
            links.append(np.stack(columns, axis=1))
    return np.concatenate(links)


def _labels_file(shard: int) -> str:
    return graph_file(shard, "components")
