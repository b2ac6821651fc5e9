"""The task that builds the graph of a shard from the neighbor lists.

Edges of the layout never leave a shard: a neighbor in another shard attracts through the patch that contains it,
whose mean the other shard sends after every epoch. The weights p(j|i) + p(i|j) are exact, because the lists contain
neighbors in other shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from nomad_dask.backends.rank_weights import join_tail, rank_weights, total_weights
from nomad_dask.backends.weight_codes import weight_levels
from nomad_dask.backends.weighted_lists import WeightedLists
from nomad_dask.cluster import report_progress, worker_backend
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.cross_shard_edges import save_outgoing_edges
from nomad_dask.neighbors.given_lists import read_given_lists
from nomad_dask.neighbors.graph_files import CONDITIONAL_P, WEIGHT_CODES, graph_file
from nomad_dask.neighbors.kept_lists import KEPT_LISTS, keep_lists, kept_list_file
from nomad_dask.neighbors.list_files import ROWS_AT_ONCE, ListChunk, read_lists, save_joined_lists
from nomad_dask.neighbors.nn_descent_rounds import load_batch
from nomad_dask.neighbors.search_batches import load_search_batches
from nomad_dask.neighbors.search_state import SearchState
from nomad_dask.planning.plan import MIN_RANGE_ROWS, N_RANGES
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.npy_writer import appended_npy


def build_graph(
    run: RunContext, shard: int, states: Sequence[SearchState] | None = None
) -> tuple[list[Artifact], dict[str, Any]]:
    """Build a shard's graph and its edges into other shards.

    Parameters
    ----------
    run : RunContext
    shard : int
    states : sequence of SearchState, optional
        Of the finished search of all batches, if they have halos, or a single one for given lists. By default the
        shard, one batch, is searched here.

    Returns
    -------
    artifacts : list of Artifact
    facts : dict
        Measurements of the graph, and of the search if it was done here.
    """
    catalog = load_cell_catalog(run)
    if states is None:
        states, chunks = _search_shard(run, shard)
    elif run.params.has_given_neighbors:
        chunks = read_given_lists(run, catalog, shard)
    else:
        batches = load_search_batches(run)
        chunks = read_lists(run, batches, shard, [state.rounds for state in states])
        states = [states[batch] for batch in batches.of_shard(shard)]
    if run.plan.keeps_lists:
        chunks = keep_lists(run, catalog, shard, chunks)
    lists = _join_lists(run, shard, chunks)
    folder = ArtifactFolder(run.workspace)
    artifacts, n_edges = _save_graph(run, folder, shard, lists)
    if run.plan.keeps_lists:
        artifacts += [folder.describe(kept_list_file(shard, name)) for name in KEPT_LISTS]
    foreign_weight = 0.0
    if run.plan.searches_across_shards:
        rows, ids, p = (np.concatenate(a) for a in zip(*(chunk.outside() for chunk in lists.chunks()), strict=True))
        artifacts += save_outgoing_edges(folder, catalog, shard, (rows, ids, p))
        foreign_weight = float(p.sum(dtype=np.float64))
    return artifacts, {
        "rows": lists.n_rows,
        "recall": float(np.mean([state.recall for state in states])),
        "n_probes": float(np.mean([state.n_probes for state in states])),
        "rounds": float(np.mean([state.rounds for state in states])),
        "edges": n_edges,
        "foreign_share": foreign_weight / max(lists.n_rows, 1),
    }


def _search_shard(run: RunContext, shard: int) -> tuple[list[SearchState], Iterator[ListChunk]]:
    """Search the neighbors of a shard's rows within the shard."""
    search = load_batch(run, shard).search
    with worker_backend(run.device, run.shard_threads):
        lists, tail, state = search.run(report_progress)
    arrays = lists.ids.view(np.uint32), tail.view(np.uint32), lists.distances
    starts = range(0, max(len(tail), 1), ROWS_AT_ONCE)
    return [state], (ListChunk(*(array[a : a + ROWS_AT_ONCE] for array in arrays)) for a in starts)


def _join_lists(run: RunContext, shard: int, chunks: Iterator[ListChunk]) -> WeightedLists:
    """Write the lists of a shard's rows and their tails into one file, and weight them."""
    first = next(chunks)
    k, n_tail = first.ids.shape[1], first.tail.shape[1]
    weights = rank_weights(k, run.params.affinity, n_tail)
    totals: list[np.ndarray] = []

    def joined() -> Iterator[np.ndarray]:
        for chunk in itertools.chain([first], chunks):
            lists = join_tail(chunk.ids, chunk.tail)
            totals.append(total_weights(lists, weights))
            yield lists

    file = save_joined_lists(run, shard, joined(), k + n_tail)
    return WeightedLists(sum(map(len, totals)), file.read, weights, np.concatenate(totals))


def _save_graph(
    run: RunContext, folder: ArtifactFolder, shard: int, lists: WeightedLists
) -> tuple[list[Artifact], int]:
    """Write the graph of a shard, range by range; return the artifacts, and the number of edges."""
    with_codes = run.params.normalization == "global"
    levels = weight_levels(lists)
    of_weights = {WEIGHT_CODES: np.uint8} if with_codes else {"weights": np.float32, CONDITIONAL_P: np.float32}
    dtypes = {"indptr": np.int64, "indices": np.int32, **of_weights}
    n_edges = 0
    with ExitStack() as stack:
        backend = stack.enter_context(worker_backend(run.device, run.shard_threads))
        appends = [
            stack.enter_context(appended_npy(folder.file(graph_file(shard, name)), np.dtype(dtype)))
            for name, dtype in dtypes.items()
        ]
        appends[0](np.zeros(1, np.int64))
        for part in backend.symmetric_graph(lists, graph_ranges(lists.n_rows), levels if with_codes else None):
            arrays = (part.indptr[1:] + n_edges, part.indices, *part.values)
            for append, array in zip(appends, arrays, strict=True):
                append(array)
            n_edges += len(part.indices)
    artifacts = [folder.describe(graph_file(shard, name)) for name in dtypes]
    if with_codes:
        artifacts.append(folder.save(graph_file(shard, "weights"), levels))
    return artifacts, n_edges


def graph_ranges(n_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows in which the graph of a shard is built: all lists are read for each of them."""
    step = max(MIN_RANGE_ROWS, -(-n_rows // N_RANGES))
    for first in range(0, n_rows, step):
        yield first, min(first + step, n_rows)
