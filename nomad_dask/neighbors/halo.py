"""The halo of a shard: the cells of other shards around its own, in which its rows look for neighbours too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext

# The cells nearest to each own cell that belong to the halo.
_HALO_CELLS = 64
_CHUNK = 256
_RUN = 64


@dataclass(frozen=True)
class CellCatalog:
    """The cells of all shards, numbered shard by shard.

    Attributes
    ----------
    centroids : ndarray of float32 (cells, n_dims)
    counts : ndarray of int64 (cells,)
        Rows of each.
    edges : ndarray of int64 (n_shards + 1,)
        Shard s has the cells ``edges[s]`` to ``edges[s + 1]``.
    starts : ndarray of int64 (cells,)
        First row of each cell in its shard.
    """

    centroids: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    starts: np.ndarray

    def shard_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the shard of each cell."""
        return np.asarray(np.searchsorted(self.edges, cells, side="right") - 1)


@dataclass(frozen=True)
class HaloRegion:
    """A shard and its halo as one run of rows sorted by cell: the own rows first.

    Attributes
    ----------
    cells : ndarray of int64 (c,)
        Numbers of the cells, own ones first.
    offsets : ndarray of int64 (c + 1,)
        Rows of each cell.
    n_own : int
        Own rows.
    """

    cells: np.ndarray
    offsets: np.ndarray
    n_own: int


def load_cell_catalog(run: RunContext) -> CellCatalog:
    """Read the cells of all shards."""
    shards = range(run.plan.n_shards)
    offsets = [np.load(run.file(shard_file(s, "cell_offsets"))) for s in shards]
    return CellCatalog(
        np.concatenate([np.load(run.file(shard_file(s, "centroids"))) for s in shards]),
        np.concatenate([np.diff(o) for o in offsets]),
        np.concatenate([[0], np.cumsum([len(o) - 1 for o in offsets])]).astype(np.int64),
        np.concatenate([o[:-1] for o in offsets]),
    )


def nearest_cells(centroids: np.ndarray, first: int, last: int, m: int) -> np.ndarray:
    """Return for cells `first` to `last` the `m` cells (cells, m) nearest to each, nearest first, itself among them."""
    n = len(centroids)
    m = min(m, n)
    centered = centroids - centroids.mean(axis=0)
    half_norms = np.einsum("ij,ij->i", centered, centered) / 2
    near = np.empty((last - first, m), np.int64)
    # The m nearest lie in the m runs of cells with the nearest cell: only these are sorted out.
    n_runs = -(-n // _RUN)
    within = np.arange(_RUN)
    for a in range(first, last, _CHUNK):
        b = min(a + _CHUNK, last)
        gaps = np.full((b - a, n_runs * _RUN), np.inf, np.float32)
        np.subtract(half_norms, centered[a:b] @ centered.T, out=gaps[:, :n])
        least = gaps.reshape(b - a, n_runs, _RUN).min(axis=2)
        runs = np.argpartition(least, min(m, n_runs) - 1, axis=1)[:, :m]
        places = (runs[:, :, None] * _RUN + within).reshape(b - a, -1)
        gaps = np.take_along_axis(gaps, places, axis=1)
        part = np.argpartition(gaps, m - 1, axis=1)[:, :m]
        inner = np.argsort(np.take_along_axis(gaps, part, axis=1), axis=1, kind="stable")
        near[a - first : b - first] = np.take_along_axis(places, np.take_along_axis(part, inner, axis=1), axis=1)
    return near


def halo_region(cells: CellCatalog, shard: int, with_halo: bool) -> HaloRegion:
    """Return which rows belong to a shard and, on request, to its halo."""
    first, last = int(cells.edges[shard]), int(cells.edges[shard + 1])
    numbers = np.arange(first, last)
    if with_halo:
        near = np.unique(nearest_cells(cells.centroids, first, last, _HALO_CELLS))
        numbers = np.concatenate([numbers, near[(near < first) | (near >= last)]])
    offsets = np.concatenate([[0], np.cumsum(cells.counts[numbers])]).astype(np.int64)
    return HaloRegion(numbers, offsets, int(cells.counts[first:last].sum()))


def open_vectors(run: RunContext, cells: CellCatalog, shard: int, around: HaloRegion) -> ShardVectors:
    """Open the vectors of a shard and of its halo."""
    n_own_cells = int(cells.edges[shard + 1] - cells.edges[shard])
    there = around.cells[n_own_cells:]
    halo = [
        (run.file(shard_file(int(owner), "vectors")), int(start), int(start + count))
        for owner, start, count in zip(cells.shard_of(there), cells.starts[there], cells.counts[there], strict=True)
    ]
    own = (run.file(shard_file(shard, "vectors")), 0, around.n_own)
    return ShardVectors([own, *halo], run.params.metric, run.plan.cache_bytes)
