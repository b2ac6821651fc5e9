"""Search batches: groups of nearby cells of a shard, small enough to hold all their vectors in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.neighbors.cell_catalog import CellCatalog, load_cell_catalog
from nomad_dask.partition.shard_assignment import assign_cells
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class SearchBatches:
    """The search batches of all shards, numbered shard by shard.

    Attributes
    ----------
    catalog : CellCatalog
    of_cell : ndarray of int64 (n_cells,)
        Batch of each cell.
    n_per_shard : int
        Batches of each shard.
    """

    catalog: CellCatalog
    of_cell: np.ndarray
    n_per_shard: int

    def cells(self, batch: int) -> np.ndarray:
        """Return the cells of a batch, ascending."""
        return np.flatnonzero(self.of_cell == batch)

    def of_shard(self, shard: int) -> range:
        """Return the batches of a shard."""
        return range(shard * self.n_per_shard, (shard + 1) * self.n_per_shard)

    def shard(self, batch: int) -> int:
        """Return the shard of a batch."""
        return batch // self.n_per_shard

    def starts(self) -> np.ndarray:
        """Return the first row (n_cells,) int64 of each cell among those of its batch, in the order of the cells."""
        order = np.argsort(self.of_cell, kind="stable")
        counts, batches = self.catalog.counts[order], self.of_cell[order]
        before = np.cumsum(counts) - counts
        starts = np.empty(len(order), np.int64)
        starts[order] = before - before[np.searchsorted(batches, batches)]
        return starts


def load_search_batches(run: RunContext) -> SearchBatches:
    """Read the cells of all shards, and divide those of each shard into batches of about as many rows."""
    catalog, n_batches = load_cell_catalog(run), run.plan.n_batches
    of_cell = np.repeat(np.arange(run.plan.n_shards), np.diff(catalog.shard_offsets))
    if n_batches > 1:
        axes = np.load(run.file("cells/components.npy"))
        for shard in range(run.plan.n_shards):
            cells = slice(*catalog.cells_of(shard))
            projected = catalog.centroids[cells] @ axes.T
            of_cell[cells] = shard * n_batches + assign_cells(projected, catalog.counts[cells], None, n_batches)
    return SearchBatches(catalog, of_cell, n_batches)


def join_ranges(owners: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Join the rows of consecutive cells that follow each other in the same file: owner, first row and end of each."""
    if not len(owners):
        return []
    stops = starts + counts
    is_apart = (owners[1:] != owners[:-1]) | (starts[1:] != stops[:-1])
    firsts, lasts = np.flatnonzero(np.append(True, is_apart)), np.flatnonzero(np.append(is_apart, True))
    return [(int(owners[a]), int(starts[a]), int(stops[b])) for a, b in zip(firsts, lasts, strict=True)]
