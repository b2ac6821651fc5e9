"""Neighbor lists in the workspace, by which search batches exchange them between rounds.

In these files rows are numbered through all shards. The name of a file contains its round, so a delayed task cannot
overwrite the lists of a later round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nomad_dask.backends.data import NeighborLists
from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.neighbors.halo import HaloRegion
from nomad_dask.neighbors.search_batches import LISTS_FOLDER, SearchBatches, join_ranges
from nomad_dask.partition.shuffle_merge import group_cells
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.atomic import write_temporary
from nomad_dask.storage.npy_writer import appended_npy

_ARRAYS = ("ids", "distances", "is_new")
ROWS_AT_ONCE = 1 << 18


def _list_file(batch: int, rounds: int, name: str) -> str:
    return f"{LISTS_FOLDER}/{batch:04d}.{name}.{rounds}.npy"


def save_lists(
    run: RunContext, batches: SearchBatches, region: HaloRegion, batch: int, lists: NeighborLists, rounds: int
) -> None:
    """Write the lists of a batch's rows after a number of rounds."""
    ids = _global_ids(batches, region, lists.ids)
    for name, array in zip(_ARRAYS, (ids, lists.distances, lists.is_new), strict=True):
        write_temporary(run.file(_list_file(batch, rounds, name)), array)


def save_tail(run: RunContext, batches: SearchBatches, region: HaloRegion, batch: int, tail: np.ndarray) -> None:
    """Write the tail (n_rows, n_tail) of the lists of a batch's rows."""
    write_temporary(run.file(_list_file(batch, 0, "tail")), _global_ids(batches, region, tail))


def load_lists(run: RunContext, batches: SearchBatches, region: HaloRegion, k: int, rounds: list[int]) -> NeighborLists:
    """Read the lists of all rows of a region.

    Parameters
    ----------
    run : RunContext
    batches : SearchBatches
    region : HaloRegion
    k : int
        Length of the lists.
    rounds : list of int
        Rounds that each batch has done.

    Returns
    -------
    NeighborLists
        Ids are positions within the region; -1 for rows outside.
    """
    n_rows = int(region.offsets[-1])
    arrays: list[np.ndarray] = [np.empty((n_rows, k), dtype) for dtype in (np.uint32, np.float32, np.uint8)]
    owners = batches.of_cell[region.cells]
    starts, counts = batches.starts()[region.cells], batches.catalog.counts[region.cells]
    for batch in np.unique(owners):
        files = [np.load(run.file(_list_file(int(batch), rounds[batch], name)), mmap_mode="r") for name in _ARRAYS]
        for i in np.flatnonzero(owners == batch):
            rows_of_batch = slice(int(starts[i]), int(starts[i] + counts[i]))
            rows_of_region = slice(int(region.offsets[i]), int(region.offsets[i + 1]))
            for array, file in zip(arrays, files, strict=True):
                array[rows_of_region] = file[rows_of_batch]
    global_ids, distances, is_new = arrays
    return NeighborLists(_region_positions(batches, region, global_ids), distances, is_new)


def save_joined_lists(run: RunContext, shard: int, chunks: Iterable[np.ndarray], length: int) -> RowFile:
    """Write the lists (n, length) uint32 of a shard's rows, of which its graph is built, and open the file."""
    path = run.file(_list_file(shard, 0, "joined"))
    with appended_npy(path, np.dtype(np.uint32), (length,), durable=False) as append:
        for chunk in chunks:
            append(chunk)
    return RowFile.open(path)


class ListChunk(NamedTuple):
    """The neighbors of consecutive rows of a shard.

    Attributes
    ----------
    ids : ndarray of uint32 (n, k)
        Numbers through all shards, counted from the first row of this one: see `WeightedLists`.
    tail : ndarray of uint32 (n, n_tail)
    distances : ndarray of float32 (n, k) or None
        Squared distances of `ids`, if they are kept; those of given lists as they are given.
    """

    ids: np.ndarray
    tail: np.ndarray
    distances: np.ndarray | None


def read_lists(run: RunContext, batches: SearchBatches, shard: int, rounds: Sequence[int]) -> Iterator[ListChunk]:
    """Yield the neighbors of a shard's rows in chunks, after the rounds that each batch has done."""
    catalog, starts = batches.catalog, batches.starts()
    n_rows_before, n_all_rows = int(catalog.shard_rows()[:shard].sum()), int(catalog.counts.sum())
    kinds = ("ids", "tail", "distances") if run.plan.keeps_lists else ("ids", "tail")
    files = {
        (batch, kind): RowFile.open(run.file(_list_file(batch, 0 if kind == "tail" else rounds[batch], kind)))
        for batch in batches.of_shard(shard)
        for kind in kinds
    }
    first, last = catalog.cells_of(shard)
    for a, b in group_cells(catalog.counts[first:last], ROWS_AT_ONCE):
        cells = slice(first + a, first + b)
        pieces = join_ranges(batches.of_cell[cells], starts[cells], catalog.counts[cells])
        pieces = pieces or [(batches.of_shard(shard)[0], 0, 0)]
        arrays = {
            kind: np.concatenate([files[batch, kind].read(start, stop) for batch, start, stop in pieces])
            for kind in kinds
        }
        ids, tail = (count_from(arrays[kind], n_rows_before, n_all_rows) for kind in ("ids", "tail"))
        yield ListChunk(ids, tail, arrays.get("distances"))


def count_from(global_ids: np.ndarray, first: int, n_rows: int) -> np.ndarray:
    """Return rows numbered through all shards counted from row `first` on; those before it come last."""
    counted = np.where(global_ids < first, global_ids + np.uint32(n_rows - first), global_ids - np.uint32(first))
    return np.where(global_ids == NO_ROW, NO_ROW, counted)


def _global_ids(batches: SearchBatches, region: HaloRegion, ids: np.ndarray) -> np.ndarray:
    """Return the uint32 numbers through all shards of positions within a region; `NO_ROW` for -1."""
    first_rows = batches.catalog.global_starts()[region.cells]
    global_ids = np.repeat(first_rows - region.offsets[:-1], np.diff(region.offsets))
    global_ids += np.arange(len(global_ids))
    # Index -1, for a missing neighbor, is the last entry.
    return np.asarray(np.append(global_ids.astype(np.uint32), NO_ROW)[ids])


def _region_positions(batches: SearchBatches, region: HaloRegion, global_ids: np.ndarray) -> np.ndarray:
    """Return the positions within a region of rows numbered through all shards, -1 for those outside."""
    catalog = batches.catalog
    starts, counts = catalog.global_starts()[region.cells], catalog.counts[region.cells]
    position_of = np.full(int(catalog.counts.sum()) + 1, -1, np.int32)
    for start, count, position in zip(starts, counts, region.offsets, strict=False):
        position_of[start : start + count] = np.arange(position, position + count)
    positions = np.empty(global_ids.shape, np.int32)
    for start in range(0, len(global_ids), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        # `NO_ROW` is clipped to the last entry, which is -1.
        np.take(position_of, global_ids[part], mode="clip", out=positions[part])
    return positions
