"""The neighbour search of several shards: each probes, then all refine, round by round.

A round tries the neighbours of neighbours, and these may lie in another shard. So after every step a shard
leaves its lists in the workspace, and reads in the next those of the rows around it. Rows are numbered
through all shards there. A file is named by its round: what a task leaves that was held up harms nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.cluster import get_worker_state, report_progress, worker_backend, worker_threads
from nomad_dask.neighbors.halo import CellCatalog, HaloRegion, halo_region, load_cell_catalog, open_vectors
from nomad_dask.neighbors.search import NeighborLists, NeighborSearch, SearchState
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.atomic import write_temporary

FOLDER = "neighbor_lists"
_NOBODY = np.uint32(0xFFFFFFFF)
_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True)
class LoadedShard:
    """A shard with its halo, ready to be searched."""

    key: tuple[str, int]
    cells: CellCatalog
    around: HaloRegion
    search: NeighborSearch


class LoadedShards(dict[tuple[str, int], LoadedShard]):
    """The shards that a worker searches, by workspace and number, in the order of their last use.

    Only the last one has its rows in memory, as two need not fit.
    """


def _open(run: RunContext, shard: int) -> LoadedShard:
    """Return a shard with its halo and its rows in memory; how it is searched is chosen the first time."""
    loaded = get_worker_state().get(LoadedShards)
    key = (str(run.workspace), shard)
    if loaded and (last := next(reversed(loaded))) != key:
        loaded[last].search.unload()
        if key in loaded:
            loaded[key] = loaded.pop(key)
            with worker_backend(run.device, worker_threads(run.shard_threads)):
                loaded[key].search.load()
    if key not in loaded:
        loaded[key] = load_shard(run, shard, with_halo=True)
    return loaded[key]


def load_shard(run: RunContext, shard: int, with_halo: bool) -> LoadedShard:
    """Open the rows of a shard, and of its halo on request, and choose how they are searched."""
    loaded = get_worker_state().get(LoadedShards)
    catalogs = [other.cells for (workspace, _), other in loaded.items() if workspace == str(run.workspace)]
    cells = catalogs[0] if catalogs else load_cell_catalog(run)
    around = halo_region(cells, shard, with_halo)
    vectors = open_vectors(run, cells, shard, around)
    # The rows and what the search makes of them may each take this much.
    params, memory = run.params, 2 * run.plan.cache_bytes
    with worker_backend(run.device, worker_threads(run.shard_threads)) as backend:
        centroids = cells.centroids[around.cells]
        primitives = backend.create_search(
            vectors, around.offsets, centroids, params.random_state, memory, around.n_own
        )
        search = NeighborSearch(
            primitives,
            params.n_neighbors,
            n_probes=params.n_probes,
            target_recall=params.target_recall,
            seed=params.random_state,
        )
    return LoadedShard((str(run.workspace), shard), cells, around, search)


def unload_shards(workspace: str, dask_worker: Any) -> None:
    """Remove all shards of a workspace from memory; Dask gives the worker when it broadcasts the call."""
    loaded = get_worker_state(dask_worker).get(LoadedShards)
    for key in [key for key in loaded if key[0] == workspace]:
        del loaded[key]


def probe_shard(run: RunContext, shard: int) -> SearchState:
    """Search the cells nearest to each row of a shard, and leave the lists for the other shards."""
    opened = _open(run, shard)
    with worker_backend(run.device, worker_threads(run.shard_threads)):
        lists, effort = opened.search.probe(report_progress)
    _save(run, opened, lists, effort.rounds)
    return effort


def nn_descent_round(run: RunContext, shard: int, efforts: tuple[SearchState, ...]) -> SearchState:
    """Do a round for the rows of a shard, with the lists that all shards left."""
    opened = _open(run, shard)
    lists = _lists_around(run, opened, [e.rounds for e in efforts])
    with worker_backend(run.device, worker_threads(run.shard_threads)):
        found, effort = opened.search.refine(lists, efforts[shard])
    _save(run, opened, found, effort.rounds)
    return effort


def load_neighbor_ids(run: RunContext, cells: CellCatalog, around: HaloRegion, shard: int, rounds: int) -> np.ndarray:
    """Return the neighbours (rows, k) int32 of a shard's own rows that it left after so many rounds."""
    return _local(cells, around, np.load(run.file(_file(shard, rounds, "ids"))))


_FILES = ("ids", "distances", "fresh")


def _file(shard: int, rounds: int, what: str) -> str:
    return f"{FOLDER}/{shard:04d}.{what}.{rounds}.npy"


def _save(run: RunContext, opened: LoadedShard, lists: NeighborLists, rounds: int) -> None:
    _, shard = opened.key
    around, cells = opened.around, opened.cells
    numbers = np.repeat(_first_rows(cells)[around.cells] - around.offsets[:-1], np.diff(around.offsets))
    numbers += np.arange(len(numbers))
    # The last is what -1 means.
    ids = np.append(numbers.astype(np.uint32), _NOBODY)[lists.ids]
    for what, array in zip(_FILES, (ids, lists.distances, lists.fresh), strict=True):
        write_temporary(run.file(_file(shard, rounds, what)), array)


def _first_rows(cells: CellCatalog) -> np.ndarray:
    """Return the number of the first row of each cell, counted through all shards: the cells are in their order."""
    firsts: np.ndarray = np.cumsum(cells.counts) - cells.counts
    return firsts


def _local(cells: CellCatalog, around: HaloRegion, ids: np.ndarray) -> np.ndarray:
    """Return the positions around a shard of rows numbered through all shards, -1 for those elsewhere."""
    firsts, counts = _first_rows(cells)[around.cells], cells.counts[around.cells]
    positions = np.full(int(cells.counts.sum()) + 1, -1, np.int32)
    for first, count, position in zip(firsts, counts, around.offsets, strict=False):
        positions[first : first + count] = np.arange(position, position + count)
    local = np.empty(ids.shape, np.int32)
    for start in range(0, len(ids), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        # Nobody is beyond the last row, and clipped to the place after it.
        np.take(positions, ids[part], mode="clip", out=local[part])
    return local


def _lists_around(run: RunContext, opened: LoadedShard, rounds: list[int]) -> NeighborLists:
    """Return the lists of all rows that are open, read from what their shards left."""
    around, cells = opened.around, opened.cells
    k = opened.search.k
    n = int(around.offsets[-1])
    everything = NeighborLists(np.empty((n, k), np.uint32), np.empty((n, k), np.float32), np.empty((n, k), np.uint8))
    owners = cells.shard_of(around.cells)
    for owner in np.unique(owners):
        files = [np.load(run.file(_file(int(owner), rounds[owner], what)), mmap_mode="r") for what in _FILES]
        for slot in np.flatnonzero(owners == owner):
            cell = around.cells[slot]
            there = slice(int(cells.starts[cell]), int(cells.starts[cell] + cells.counts[cell]))
            here = slice(int(around.offsets[slot]), int(around.offsets[slot + 1]))
            for part, file in zip((everything.ids, everything.distances, everything.fresh), files, strict=True):
                part[here] = file[there]
    return NeighborLists(_local(cells, around, everything.ids), everything.distances, everything.fresh)
