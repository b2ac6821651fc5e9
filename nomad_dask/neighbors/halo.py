"""The halo of a search batch: nearby cells of other batches, in which its rows also search for neighbors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.search_batches import SearchBatches, join_ranges
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class HaloRegion:
    """A search batch and its halo as consecutive rows, sorted by cell: the rows of the batch first.

    Attributes
    ----------
    cells : ndarray of int64 (n_cells,)
        Numbers of the cells in the `CellCatalog`, those of the batch first, both ascending.
    offsets : ndarray of int64 (n_cells + 1,)
        The rows of cell i of the region are ``offsets[i]`` to ``offsets[i + 1]``.
    n_batch_rows : int
        Rows of the batch itself.
    """

    cells: np.ndarray
    offsets: np.ndarray
    n_batch_rows: int


def halo_region(batches: SearchBatches, batch: int) -> HaloRegion:
    """Return the cells of a search batch and of its halo."""
    counts, own = batches.catalog.counts, batches.cells(batch)
    cells = np.concatenate([own, batches.halo_cells(batch)])
    offsets = np.concatenate([[0], np.cumsum(counts[cells])]).astype(np.int64)
    return HaloRegion(cells, offsets, int(counts[own].sum()))


def open_vectors(run: RunContext, batches: SearchBatches, batch: int, region: HaloRegion) -> ShardVectors:
    """Open the vectors of a search batch and of its halo."""
    catalog = batches.catalog
    # A batch may have no cells, but it has vectors, of no row.
    owners = np.append(batches.shard(batch), catalog.shard_of(region.cells))
    starts, counts = (np.append(0, array[region.cells]) for array in (catalog.starts, catalog.counts))
    ranges = join_ranges(owners, starts, counts)
    parts = [(run.file(shard_file(shard, "vectors")), start, stop) for shard, start, stop in ranges]
    return ShardVectors(parts, run.params.metric, run.plan.cache_bytes)
