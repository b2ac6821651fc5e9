"""Neighbor lists in the workspace, by which shards exchange them between rounds.

In these files rows are numbered through all shards. The name of a file contains its round, so a delayed task cannot
overwrite the lists of a later round.
"""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import NeighborLists
from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.neighbors.halo import HaloRegion
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.atomic import write_temporary

LISTS_FOLDER = "neighbor_lists"
_ARRAYS = ("ids", "distances", "is_new")
_NO_ROW = np.uint32(0xFFFFFFFF)
_ROWS_AT_ONCE = 1 << 18


def _list_file(shard: int, rounds: int, name: str) -> str:
    return f"{LISTS_FOLDER}/{shard:04d}.{name}.{rounds}.npy"


def save_lists(
    run: RunContext, catalog: CellCatalog, region: HaloRegion, shard: int, lists: NeighborLists, rounds: int
) -> None:
    """Write the lists of a shard's rows after a number of rounds."""
    ids = _global_ids(catalog, region, lists.ids)
    for name, array in zip(_ARRAYS, (ids, lists.distances, lists.is_new), strict=True):
        write_temporary(run.file(_list_file(shard, rounds, name)), array)


def save_tail(run: RunContext, catalog: CellCatalog, region: HaloRegion, shard: int, tail: np.ndarray) -> None:
    """Write the tail (n_rows, n_tail) of the lists of a shard's rows."""
    write_temporary(run.file(_list_file(shard, 0, "tail")), _global_ids(catalog, region, tail))


def load_lists(run: RunContext, catalog: CellCatalog, region: HaloRegion, k: int, rounds: list[int]) -> NeighborLists:
    """Read the lists of all rows of a region.

    Parameters
    ----------
    run : RunContext
    catalog : CellCatalog
    region : HaloRegion
    k : int
        Length of the lists.
    rounds : list of int
        Rounds that each shard has done.

    Returns
    -------
    NeighborLists
        Ids are positions within the region; -1 for rows outside.
    """
    n_rows = int(region.offsets[-1])
    arrays: list[np.ndarray] = [np.empty((n_rows, k), dtype) for dtype in (np.uint32, np.float32, np.uint8)]
    owners = catalog.shard_of(region.cells)
    for owner in np.unique(owners):
        files = [np.load(run.file(_list_file(int(owner), rounds[owner], name)), mmap_mode="r") for name in _ARRAYS]
        for i in np.flatnonzero(owners == owner):
            cell = region.cells[i]
            rows_of_owner = slice(int(catalog.starts[cell]), int(catalog.starts[cell] + catalog.counts[cell]))
            rows_of_region = slice(int(region.offsets[i]), int(region.offsets[i + 1]))
            for array, file in zip(arrays, files, strict=True):
                array[rows_of_region] = file[rows_of_owner]
    global_ids, distances, is_new = arrays
    return NeighborLists(_region_positions(catalog, region, global_ids), distances, is_new)


def load_neighbor_ids(
    run: RunContext, catalog: CellCatalog, region: HaloRegion, shard: int, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbors of a shard's rows after a number of rounds, as positions in its region.

    Returns
    -------
    ids : ndarray of int32 (n_rows, k)
    tail : ndarray of int32 (n_rows, n_tail)
    """
    files = (_list_file(shard, rounds, "ids"), _list_file(shard, 0, "tail"))
    ids, tail = (_region_positions(catalog, region, np.load(run.file(file))) for file in files)
    return ids, tail


def _global_ids(catalog: CellCatalog, region: HaloRegion, ids: np.ndarray) -> np.ndarray:
    """Return the uint32 numbers through all shards of positions within a region; `_NO_ROW` for -1."""
    first_rows = catalog.global_starts()[region.cells]
    global_ids = np.repeat(first_rows - region.offsets[:-1], np.diff(region.offsets))
    global_ids += np.arange(len(global_ids))
    # Index -1, for a missing neighbor, is the last entry.
    return np.asarray(np.append(global_ids.astype(np.uint32), _NO_ROW)[ids])


def _region_positions(catalog: CellCatalog, region: HaloRegion, global_ids: np.ndarray) -> np.ndarray:
    """Return the positions within a region of rows numbered through all shards, -1 for those outside."""
    starts, counts = catalog.global_starts()[region.cells], catalog.counts[region.cells]
    position_of = np.full(int(catalog.counts.sum()) + 1, -1, np.int32)
    for start, count, position in zip(starts, counts, region.offsets, strict=False):
        position_of[start : start + count] = np.arange(position, position + count)
    positions = np.empty(global_ids.shape, np.int32)
    for start in range(0, len(global_ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        # `_NO_ROW` is clipped to the last entry, which is -1.
        np.take(position_of, global_ids[part], mode="clip", out=positions[part])
    return positions
