"""The cells of all shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext


@dataclass(frozen=True)
class CellCatalog:
    """The cells of all shards, numbered shard by shard.

    Attributes
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
    counts : ndarray of int64 (n_cells,)
        Rows of each cell.
    shard_offsets : ndarray of int64 (n_shards + 1,)
        Shard s owns the cells ``shard_offsets[s]`` to ``shard_offsets[s + 1]``.
    starts : ndarray of int64 (n_cells,)
        First row of each cell within its shard.
    """

    centroids: np.ndarray
    counts: np.ndarray
    shard_offsets: np.ndarray
    starts: np.ndarray

    def shard_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the shard of each cell."""
        return np.asarray(np.searchsorted(self.shard_offsets, cells, side="right") - 1)

    def cells_of(self, shard: int) -> tuple[int, int]:
        """Return the first cell of a shard, and the one after its last."""
        return int(self.shard_offsets[shard]), int(self.shard_offsets[shard + 1])

    def shard_rows(self) -> np.ndarray:
        """Return the number (n_shards,) of rows of each shard."""
        return np.diff(np.append(0, np.cumsum(self.counts))[self.shard_offsets])

    def first_rows(self) -> np.ndarray:
        """Return the first row (n_shards + 1,) of each shard, numbered as in `global_starts`, and the number of all."""
        return np.append(0, np.cumsum(self.shard_rows()))

    def global_starts(self) -> np.ndarray:
        """Return the first row of each cell, with rows numbered through all shards in the order of their cells."""
        starts: np.ndarray = np.cumsum(self.counts) - self.counts
        return starts


def load_cell_catalog(run: RunContext) -> CellCatalog:
    """Read the cells of all shards of a run."""
    return read_cell_catalog(run.file, run.plan.n_shards)


def read_cell_catalog(file: Callable[[str], Path], n_shards: int) -> CellCatalog:
    """Read the cells of all shards; `file` returns the path of an artifact."""
    shards = range(n_shards)
    offsets = [np.load(file(shard_file(s, "cell_offsets"))) for s in shards]
    return CellCatalog(
        np.concatenate([np.load(file(shard_file(s, "centroids"))) for s in shards]),
        np.concatenate([np.diff(o) for o in offsets]),
        np.concatenate([[0], np.cumsum([len(o) - 1 for o in offsets])]).astype(np.int64),
        np.concatenate([o[:-1] for o in offsets]),
    )
