"""Tasks of the neighbor search across shards: each shard probes, then all refine their lists, round by round.

A round tries the neighbors of neighbors, which may be in another shard. Therefore each task writes the lists of its
shard to the workspace, and the next round reads those of the shard's halo too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nomad_dask.cluster import get_worker_state, report_progress, worker_backend
from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.neighbors.halo import HaloRegion, halo_region, open_vectors
from nomad_dask.neighbors.list_files import load_lists, save_lists, save_tail
from nomad_dask.neighbors.search import NeighborSearch
from nomad_dask.neighbors.search_state import SearchState
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class LoadedShard:
    """A shard with its halo, ready to be searched."""

    catalog: CellCatalog
    region: HaloRegion
    search: NeighborSearch


class LoadedShards(dict[tuple[str, int], LoadedShard]):
    """The shards that a worker searches, by workspace and number, in the order of their last use.

    Only the last one has its rows in memory, because two may not fit.
    """


def _get_shard(run: RunContext, shard: int) -> LoadedShard:
    """Return a shard and its halo, with the rows in memory; its search is tuned on first use."""
    loaded = get_worker_state().get(LoadedShards)
    key = (str(run.workspace), shard)
    if loaded and (last := next(reversed(loaded))) != key:
        loaded[last].search.unload()
        if key in loaded:
            loaded[key] = loaded.pop(key)
            with worker_backend(run.device, run.shard_threads):
                loaded[key].search.load()
    if key not in loaded:
        loaded[key] = load_shard(run, shard, with_halo=True)
    return loaded[key]


def load_shard(run: RunContext, shard: int, with_halo: bool) -> LoadedShard:
    """Open the vectors of a shard and, if requested, of its halo, and tune their search."""
    loaded = get_worker_state().get(LoadedShards)
    catalogs = [other.catalog for (workspace, _), other in loaded.items() if workspace == str(run.workspace)]
    catalog = catalogs[0] if catalogs else load_cell_catalog(run)
    region = halo_region(catalog, shard, with_halo)
    vectors = open_vectors(run, catalog, shard, region)
    params = run.params
    # The rows may take `cache_bytes`, and the filter and its tables as much again.
    memory_bytes = 2 * run.plan.cache_bytes
    with worker_backend(run.device, run.shard_threads) as backend:
        centroids = catalog.centroids[region.cells]
        primitives = backend.create_search(
            vectors, region.offsets, centroids, params.random_state, memory_bytes, region.n_shard_rows
        )
        search = NeighborSearch(
            primitives,
            params.n_neighbors,
            n_tail=params.n_tail_neighbors,
            n_probes=params.n_probes,
            target_recall=params.target_recall,
            seed=params.random_state,
        )
    return LoadedShard(catalog, region, search)


def unload_shards(workspace: str, dask_worker: Any) -> None:
    """Remove all shards of a workspace from memory; Dask passes the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedShards)
    for key in [key for key in loaded if key[0] == workspace]:
        del loaded[key]


def probe_shard(run: RunContext, shard: int) -> SearchState:
    """Search the nearest cells of each row of a shard, and write the lists for the other shards."""
    loaded = _get_shard(run, shard)
    with worker_backend(run.device, run.shard_threads):
        lists, tail, state = loaded.search.probe(report_progress)
    save_lists(run, loaded.catalog, loaded.region, shard, lists, state.rounds)
    save_tail(run, loaded.catalog, loaded.region, shard, tail)
    return state


def nn_descent_round(run: RunContext, shard: int, states: tuple[SearchState, ...]) -> SearchState:
    """Do one round for the rows of a shard, from the last lists of all shards; `states` are those of all shards."""
    loaded = _get_shard(run, shard)
    rounds = [state.rounds for state in states]
    lists = load_lists(run, loaded.catalog, loaded.region, loaded.search.k, rounds)
    with worker_backend(run.device, run.shard_threads):
        lists, state = loaded.search.refine(lists, states[shard])
    save_lists(run, loaded.catalog, loaded.region, shard, lists, state.rounds)
    return state
