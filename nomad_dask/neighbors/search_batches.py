"""Search batches: groups of nearby cells of a shard, small enough to hold all vectors in memory that they search.

A row is searched for in the cells of its batch and in those nearest to them, the halo. How many these are is known
only when the cells are: data of many intrinsic dimensions has halos several times as large as their batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.cluster import worker_backend
from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.partition.shard_assignment import assign_cells
from nomad_dask.planning.plan import HALO_CELLS, MIN_BATCH_ROWS
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.atomic import write_temporary

LISTS_FOLDER = "neighbor_lists"
"""Folder of what the search batches write for each other."""
_FILES = tuple(f"{LISTS_FOLDER}/{name}.npy" for name in ("batch_of_cell", "batch_offsets", "near_cells"))


@dataclass(frozen=True)
class SearchBatches:
    """The search batches of all shards, numbered shard by shard.

    Attributes
    ----------
    catalog : CellCatalog
    of_cell : ndarray of int64 (n_cells,)
        Batch of each cell.
    offsets : ndarray of int64 (n_shards + 1,)
        Shard s has the batches ``offsets[s]`` to ``offsets[s + 1]``.
    near : ndarray of int32 (n_cells, n_near) or None
        The nearest cells of each cell, among those that its rows search; None if these are all of its batch.
    """

    catalog: CellCatalog
    of_cell: np.ndarray
    offsets: np.ndarray
    near: np.ndarray | None

    @property
    def n_batches(self) -> int:
        """Batches of all shards."""
        return int(self.offsets[-1])

    def cells(self, batch: int) -> np.ndarray:
        """Return the cells of a batch, ascending."""
        return np.flatnonzero(self.of_cell == batch)

    def halo_cells(self, batch: int) -> np.ndarray:
        """Return the cells of other batches that are near those of a batch, ascending."""
        return np.zeros(0, np.int64) if self.near is None else _halo(self.near, self.cells(batch))

    def of_shard(self, shard: int) -> range:
        """Return the batches of a shard."""
        return range(int(self.offsets[shard]), int(self.offsets[shard + 1]))

    def shard(self, batch: int) -> int:
        """Return the shard of a batch."""
        return int(np.searchsorted(self.offsets, batch, side="right")) - 1

    def starts(self) -> np.ndarray:
        """Return the first row (n_cells,) int64 of each cell among those of its batch, in the order of the cells."""
        order = np.argsort(self.of_cell, kind="stable")
        counts, batches = self.catalog.counts[order], self.of_cell[order]
        before = np.cumsum(counts) - counts
        starts = np.empty(len(order), np.int64)
        starts[order] = before - before[np.searchsorted(batches, batches)]
        return starts


def divide_cells(run: RunContext) -> None:
    """Divide the cells of all shards into search batches, and write them for the tasks of the search."""
    catalog, plan = load_cell_catalog(run), run.plan
    with worker_backend(run.device, run.host_threads) as backend:
        near = find_near_cells(catalog, plan.searches_across_shards, backend)
    axes = np.load(run.file("cells/components.npy"))
    batches = divide_into_batches(catalog, near, catalog.centroids @ axes.T, plan.n_batches, plan.region_rows)
    for file, array in zip(_FILES, (batches.of_cell, batches.offsets, near), strict=True):
        write_temporary(run.file(file), array)


def load_search_batches(run: RunContext) -> SearchBatches:
    """Return the search batches: those of `divide_cells`, or a batch for each shard if they have no halos."""
    catalog = load_cell_catalog(run)
    if not run.plan.has_halos:
        of_cell = np.repeat(np.arange(run.plan.n_shards), np.diff(catalog.shard_offsets))
        return SearchBatches(catalog, of_cell, np.arange(run.plan.n_shards + 1), None)
    return SearchBatches(catalog, *(np.load(run.file(file), mmap_mode="r") for file in _FILES))


def find_near_cells(catalog: CellCatalog, across_shards: bool, backend: Backend) -> np.ndarray:
    """Return the nearest cells (n_cells, n_near) int32 of each cell: of all, or of those of its shard."""
    if across_shards:
        return backend.nearest_cells(catalog.centroids, np.arange(len(catalog.counts)), HALO_CELLS)
    # A cell of a shard with few cells is repeated.
    near = np.repeat(np.arange(len(catalog.counts), dtype=np.int32)[:, None], HALO_CELLS, axis=1)
    for shard in range(len(catalog.shard_offsets) - 1):
        first, last = catalog.cells_of(shard)
        found = backend.nearest_cells(catalog.centroids[first:last], np.arange(last - first), HALO_CELLS)
        near[first:last, : found.shape[1]] = first + found
    return near


def divide_into_batches(
    catalog: CellCatalog, near: np.ndarray, coordinates: np.ndarray, n_batches: int, region_rows: int
) -> SearchBatches:
    """Divide the cells of each shard into batches of about as many rows.

    Parameters
    ----------
    catalog : CellCatalog
    near : ndarray of int32 (n_cells, n_near)
        See `find_near_cells`.
    coordinates : ndarray of float32 (n_cells, n_axes)
        Centroids along the principal axes.
    n_batches : int
        Batches of each shard.
    region_rows : int
        A batch is divided further while it has more rows than this together with its halo, and not too few; 0 for any
        number.
    """
    of_cell, offsets, n_finished = np.empty(len(catalog.counts), np.int64), [0], 0
    for shard in range(len(catalog.shard_offsets) - 1):
        cells = np.arange(*catalog.cells_of(shard))
        groups = _split(cells, catalog, coordinates, n_batches)
        while groups:
            group = groups.pop(0)
            if region_rows and _is_too_large(group, catalog.counts, near, region_rows):
                groups = _split(group, catalog, coordinates, 2) + groups
            else:
                of_cell[group] = n_finished
                n_finished += 1
        offsets.append(n_finished)
    return SearchBatches(catalog, of_cell, np.array(offsets), near)


def _split(cells: np.ndarray, catalog: CellCatalog, coordinates: np.ndarray, n_parts: int) -> list[np.ndarray]:
    """Return the cells in parts of about as many rows."""
    parts = assign_cells(coordinates[cells], catalog.counts[cells], None, n_parts)
    return [cells[parts == part] for part in range(n_parts)]


def _is_too_large(cells: np.ndarray, counts: np.ndarray, near: np.ndarray, region_rows: int) -> bool:
    """Return whether cells, together with their halo, have too many rows, and enough of their own to be divided."""
    n_rows = int(counts[cells].sum())
    if len(cells) < 2 or n_rows < 2 * MIN_BATCH_ROWS:
        return False
    return n_rows + int(counts[_halo(near, cells)].sum()) > region_rows


def _halo(near: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return np.setdiff1d(near[cells], cells).astype(np.int64)


def join_ranges(owners: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Join the rows of consecutive cells that follow each other in the same file: owner, first row and end of each."""
    if not len(owners):
        return []
    stops = starts + counts
    is_apart = (owners[1:] != owners[:-1]) | (starts[1:] != stops[:-1])
    firsts, lasts = np.flatnonzero(np.append(True, is_apart)), np.flatnonzero(np.append(is_apart, True))
    return [(int(owners[a]), int(starts[a]), int(stops[b])) for a, b in zip(firsts, lasts, strict=True)]
