"""The arrays of a model. Its rows are numbered through all shards, in the order of their cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.cell_catalog import CellCatalog, read_cell_catalog
from nomad_dask.neighbors.kept_lists import kept_list_file
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.pipeline.model_output import position_file
from nomad_dask.storage.artifact_folder import ArtifactFolder


@dataclass(frozen=True)
class ModelArrays:
    """The arrays in the folder of a generation, each opened when it is needed.

    Attributes
    ----------
    folder : Path
    n_shards : int
    """

    folder: Path
    n_shards: int

    def file(self, name: str) -> Path:
        """Return the path of an array."""
        return ArtifactFolder(self.folder).file(name)

    def open(self, name: str) -> Any:
        """Return an array, memory-mapped."""
        return np.load(self.file(name), mmap_mode="r", allow_pickle=False)

    @cached_property
    def catalog(self) -> CellCatalog:
        """The cells of all shards."""
        return read_cell_catalog(self.file, self.n_shards)

    @cached_property
    def n_rows(self) -> int:
        """Rows of all shards."""
        return sum(len(self.open(shard_file(shard, "rows"))) for shard in range(self.n_shards))

    def vectors(self, metric: str = "euclidean", cache_bytes: int = 0) -> ShardVectors:
        """Open the vectors of the rows of the model; see `ShardVectors` for the parameters."""
        sizes = self.catalog.shard_rows()
        parts = [(self.file(shard_file(shard, "vectors")), 0, int(n)) for shard, n in enumerate(sizes)]
        return ShardVectors(parts, metric, cache_bytes)

    def input_rows(self) -> np.ndarray:
        """Return the row number int64 of the input of each row of the model."""
        return np.concatenate([self.open(shard_file(s, "rows")) for s in range(self.n_shards)])

    def positions(self) -> np.ndarray:
        """Return the positions (n_rows, dim) float32 of the rows of the model."""
        return np.concatenate([self.open(position_file(s)) for s in range(self.n_shards)])

    def cell_labels(self) -> np.ndarray:
        """Return the cell int32 of each row of the model."""
        return np.repeat(np.arange(len(self.catalog.counts), dtype=np.int32), self.catalog.counts)

    def lists(self, shard: int) -> tuple[Any, Any]:
        """Return neighbors uint32 and distances float32 (n, k) of the rows of a shard, memory-mapped."""
        neighbors, distances = (self.open(kept_list_file(shard, name)) for name in ("neighbors", "distances"))
        return neighbors, distances
