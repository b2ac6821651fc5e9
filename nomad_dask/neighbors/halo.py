"""The halo of a shard: nearby cells of other shards, in which its rows also search for neighbors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.plan import HALO_CELLS
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class HaloRegion:
    """A shard and its halo as consecutive rows, sorted by cell: the rows of the shard first.

    Attributes
    ----------
    cells : ndarray of int64 (n_cells,)
        Numbers of the cells in the `CellCatalog`, those of the shard first.
    offsets : ndarray of int64 (n_cells + 1,)
        The rows of cell i of the region are ``offsets[i]`` to ``offsets[i + 1]``.
    n_shard_rows : int
        Rows of the shard itself.
    """

    cells: np.ndarray
    offsets: np.ndarray
    n_shard_rows: int


def halo_region(catalog: CellCatalog, shard: int, with_halo: bool) -> HaloRegion:
    """Return the cells of a shard and, if requested, of its halo."""
    first, last = catalog.cells_of(shard)
    cells = np.arange(first, last)
    if with_halo:
        nearby = np.unique(nearest_cells(catalog.centroids, first, last, HALO_CELLS))
        cells = np.concatenate([cells, nearby[(nearby < first) | (nearby >= last)]])
    offsets = np.concatenate([[0], np.cumsum(catalog.counts[cells])]).astype(np.int64)
    return HaloRegion(cells, offsets, int(catalog.counts[first:last].sum()))


def open_vectors(run: RunContext, catalog: CellCatalog, shard: int, region: HaloRegion) -> ShardVectors:
    """Open the vectors of a shard and of its halo."""
    first, last = catalog.cells_of(shard)
    halo_cells = region.cells[last - first :]
    owners, starts, counts = catalog.shard_of(halo_cells), catalog.starts[halo_cells], catalog.counts[halo_cells]
    halo = [
        (run.file(shard_file(int(owner), "vectors")), int(start), int(start + count))
        for owner, start, count in zip(owners, starts, counts, strict=True)
    ]
    parts = [(run.file(shard_file(shard, "vectors")), 0, region.n_shard_rows), *halo]
    return ShardVectors(parts, run.params.metric, run.plan.cache_bytes)
