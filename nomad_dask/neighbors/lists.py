"""The neighbour search of several shards: each probes, then all refine, round by round.

A round tries the neighbours of neighbours, and these may lie in another shard. So after every step a shard
leaves its lists in the workspace, and reads in the next those of the rows around it. Rows are numbered
through all shards there. A file is named by its round: what a task leaves that was held up harms nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.choose import backend_of_worker
from nomad_dask.cluster import report, worker_threads
from nomad_dask.neighbors.halo import AllCells, Surroundings, all_cells, open_vectors, surroundings
from nomad_dask.neighbors.search import Effort, Lists, Search
from nomad_dask.plan import Run
from nomad_dask.workspace import leave

FOLDER = "lists"
_NOBODY = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Opened:
    """A shard with its halo, ready to be searched."""

    key: tuple[str, int]
    cells: AllCells
    around: Surroundings
    search: Search


# The shard that this worker searched last: the next round has its rows at hand.
_last: list[Opened] = []


def _opened(run: Run, shard: int) -> Opened:
    """Return a shard with its halo, opened anew unless this worker searched it last."""
    if not (_last and _last[0].key == (str(run.workspace), shard)):
        _last.clear()  # before: two do not fit
        _last.append(open_shard(run, shard, with_halo=True))
    return _last[0]


def open_shard(run: Run, shard: int, with_halo: bool) -> Opened:
    """Open the rows of a shard, and of its halo on request, and choose how they are searched."""
    cells = all_cells(run)
    around = surroundings(cells, shard, with_halo)
    vectors = open_vectors(run, cells, shard, around)
    # The rows and what the search makes of them may each take this much.
    params, memory = run.params, 2 * run.plan.resident_bytes
    with backend_of_worker(run.device, worker_threads(run.shard_threads)) as backend:
        centroids = cells.centroids[around.cells]
        primitives = backend.searcher(vectors, around.offsets, centroids, params.seed, memory, around.n_own)
        search = Search(
            primitives,
            params.n_neighbors,
            n_probes=params.n_probes,
            target_recall=params.target_recall,
            seed=params.seed,
        )
    return Opened((str(run.workspace), shard), cells, around, search)


def release(workspace: str) -> None:
    """Forget what was opened of a workspace."""
    if _last and _last[0].key[0] == workspace:
        _last.clear()


def probe(run: Run, shard: int) -> Effort:
    """Search the cells nearest to each row of a shard, and leave the lists for the other shards."""
    opened = _opened(run, shard)
    with backend_of_worker(run.device, worker_threads(run.shard_threads)):
        lists, effort = opened.search.probe(report)
    _save(run, opened, lists, effort.rounds)
    return effort


def refine(run: Run, shard: int, efforts: tuple[Effort, ...]) -> Effort:
    """Do a round for the rows of a shard, with the lists that all shards left."""
    opened = _opened(run, shard)
    lists = _lists_around(run, opened, [e.rounds for e in efforts])
    with backend_of_worker(run.device, worker_threads(run.shard_threads)):
        found, effort = opened.search.refine(lists, efforts[shard])
    _save(run, opened, found, effort.rounds)
    return effort


def own_ids(run: Run, cells: AllCells, around: Surroundings, shard: int, rounds: int) -> np.ndarray:
    """Return the neighbours (rows, k) int32 of a shard's own rows that it left after so many rounds."""
    return _local(cells, around, np.load(run.file(_file(shard, rounds, "ids"))))


_FILES = ("ids", "distances", "fresh")


def _file(shard: int, rounds: int, what: str) -> str:
    return f"{FOLDER}/{shard:04d}.{what}.{rounds}.npy"


def _save(run: Run, opened: Opened, lists: Lists, rounds: int) -> None:
    _, shard = opened.key
    around, cells = opened.around, opened.cells
    numbers = np.repeat(_first_rows(cells)[around.cells] - around.offsets[:-1], np.diff(around.offsets))
    numbers += np.arange(len(numbers))
    ids = np.where(lists.ids >= 0, numbers[lists.ids].astype(np.uint32), _NOBODY)
    for what, array in zip(_FILES, (ids, lists.distances, lists.fresh), strict=True):
        leave(run.file(_file(shard, rounds, what)), array)


def _first_rows(cells: AllCells) -> np.ndarray:
    """Return the number of the first row of each cell, counted through all shards: the cells are in their order."""
    firsts: np.ndarray = np.cumsum(cells.counts) - cells.counts
    return firsts


def _local(cells: AllCells, around: Surroundings, ids: np.ndarray) -> np.ndarray:
    """Return the positions around a shard of rows numbered through all shards, -1 for those elsewhere."""
    firsts = _first_rows(cells)
    slot_of_cell = np.full(len(firsts), -1)
    slot_of_cell[around.cells] = np.arange(len(around.cells))
    known = ids != _NOBODY
    rows = ids[known].astype(np.int64)
    cell = np.searchsorted(firsts, rows, side="right") - 1
    slot = slot_of_cell[cell]
    local = np.full(ids.shape, -1, np.int32)
    local[known] = np.where(slot >= 0, around.offsets[slot] + rows - firsts[cell], -1)
    return local


def _lists_around(run: Run, opened: Opened, rounds: list[int]) -> Lists:
    """Return the lists of all rows that are open, read from what their shards left."""
    around, cells = opened.around, opened.cells
    k = opened.search.k
    n = int(around.offsets[-1])
    everything = Lists(np.empty((n, k), np.uint32), np.empty((n, k), np.float32), np.empty((n, k), np.uint8))
    owners = cells.shard_of(around.cells)
    for owner in np.unique(owners):
        files = [np.load(run.file(_file(int(owner), rounds[owner], what)), mmap_mode="r") for what in _FILES]
        for slot in np.flatnonzero(owners == owner):
            cell = around.cells[slot]
            there = slice(int(cells.starts[cell]), int(cells.starts[cell] + cells.counts[cell]))
            here = slice(int(around.offsets[slot]), int(around.offsets[slot + 1]))
            for part, file in zip((everything.ids, everything.distances, everything.fresh), files, strict=True):
                part[here] = file[there]
    return Lists(_local(cells, around, everything.ids), everything.distances, everything.fresh)
