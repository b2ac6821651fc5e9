"""Tasks of the neighbor search in batches: each batch probes, then all refine their lists, round by round.

A round tries the neighbors of neighbors, which may be in another batch. Therefore each task writes the lists of its
batch to the workspace, and the next round reads those of the batch's halo too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nomad_dask.cluster import get_worker_state, report_progress, worker_backend
from nomad_dask.neighbors.halo import HaloRegion, halo_region, open_vectors
from nomad_dask.neighbors.list_files import load_lists, save_lists, save_tail
from nomad_dask.neighbors.search import NeighborSearch
from nomad_dask.neighbors.search_batches import SearchBatches, load_search_batches
from nomad_dask.neighbors.search_state import SearchState
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class LoadedBatch:
    """A search batch with its halo, ready to be searched."""

    batches: SearchBatches
    region: HaloRegion
    search: NeighborSearch


class LoadedBatches(dict[tuple[str, int], LoadedBatch]):
    """The batches that a worker searches, by workspace and number, in the order of their last use.

    Only the last one has its rows in memory, because two may not fit.
    """


def _get_batch(run: RunContext, batch: int) -> LoadedBatch:
    """Return a batch and its halo, with the rows in memory; its search is tuned on first use."""
    loaded = get_worker_state().get(LoadedBatches)
    key = (str(run.workspace), batch)
    if loaded and (last := next(reversed(loaded))) != key:
        loaded[last].search.unload()
        if key in loaded:
            loaded[key] = loaded.pop(key)
            with worker_backend(run.device, run.shard_threads):
                loaded[key].search.load()
    if key not in loaded:
        loaded[key] = load_batch(run, batch)
    return loaded[key]


def load_batch(run: RunContext, batch: int) -> LoadedBatch:
    """Open the vectors of a batch and of its halo, if it has one, and tune their search."""
    loaded = get_worker_state().get(LoadedBatches)
    known = [other.batches for (workspace, _), other in loaded.items() if workspace == str(run.workspace)]
    batches = known[0] if known else load_search_batches(run)
    params = run.params
    # The rows may take `cache_bytes`, and the filter and its tables as much again.
    memory_bytes = 2 * run.plan.cache_bytes
    with worker_backend(run.device, run.shard_threads) as backend:
        region = halo_region(batches, batch)
        vectors = open_vectors(run, batches, batch, region)
        centroids = batches.catalog.centroids[region.cells]
        primitives = backend.create_search(
            vectors, region.offsets, centroids, params.random_state, memory_bytes, region.n_batch_rows
        )
        search = NeighborSearch(
            primitives,
            params.n_neighbors,
            n_tail=params.n_tail_neighbors,
            n_probes=params.n_probes,
            target_recall=params.target_recall,
            seed=params.random_state,
        )
    return LoadedBatch(batches, region, search)


def unload_batches(workspace: str, dask_worker: Any) -> None:
    """Remove all batches of a workspace from memory; Dask passes the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedBatches)
    for key in [key for key in loaded if key[0] == workspace]:
        del loaded[key]


def probe_batch(run: RunContext, batch: int) -> SearchState:
    """Search the nearest cells of each row of a batch, and write the lists for the other batches."""
    loaded = _get_batch(run, batch)
    with worker_backend(run.device, run.shard_threads):
        lists, tail, state = loaded.search.probe(report_progress)
    save_lists(run, loaded.batches, loaded.region, batch, lists, state.rounds)
    save_tail(run, loaded.batches, loaded.region, batch, tail)
    return state


def nn_descent_round(run: RunContext, batch: int, states: tuple[SearchState, ...]) -> SearchState:
    """Do one round for the rows of a batch, from the last lists of all batches; `states` are those of all batches."""
    loaded = _get_batch(run, batch)
    rounds = [state.rounds for state in states]
    lists = load_lists(run, loaded.batches, loaded.region, loaded.search.k, rounds)
    with worker_backend(run.device, run.shard_threads):
        lists, state = loaded.search.refine(lists, states[batch])
    save_lists(run, loaded.batches, loaded.region, batch, lists, state.rounds)
    return state
