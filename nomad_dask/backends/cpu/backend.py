"""The CPU backend: what `backends.base.Backend` asks for, in NumPy, SciPy and Numba."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomad_dask.backends.base import Axes, Cells, ShardGraph
from nomad_dask.backends.cpu import kmeans, pca
from nomad_dask.backends.cpu.layout import CpuShardLayout
from nomad_dask.backends.cpu.threads import Threads
from nomad_dask.params import Params
from nomad_dask.partition.store import ShardVectors

_PROJECT_CHUNK = 8192


class CpuBackend:
    """Computes on `n_threads` threads of this process.

    Parameters
    ----------
    n_threads : int
    """

    name = "cpu"

    def __init__(self, n_threads: int) -> None:
        self.pool = Threads(n_threads)

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> Axes:
        """Return the principal axes of a sample (rows, n_dims)."""
        return pca.fit_axes(sample, n_axes, seed)

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int) -> Cells:
        """Return about `n_cells` K-Means cells of a sample."""
        return kmeans.fit_cells(sample, n_cells, seed, self.pool)

    def assign(self, rows: np.ndarray, cells: Cells) -> np.ndarray:
        """Return the cell (rows,) int32 of each row."""
        return kmeans.assign(rows, cells, self.pool)

    def project(self, rows: np.ndarray, axes: Axes) -> np.ndarray:
        """Return coordinates (rows, n_axes) float32 along the axes."""
        out = np.empty((len(rows), len(axes.components)), np.float32)

        def part(a: int, b: int) -> None:
            out[a:b] = pca.project(rows[a:b], axes)

        self.pool.run(part, len(rows), _PROJECT_CHUNK)
        return out

    def search(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        params: Params,
        memory_bytes: int,
        advance: Callable[[int], None],
    ) -> object:
        """Return the `neighbors.search.Neighbors` of the rows of a shard."""
        from nomad_dask.neighbors.search import find_neighbors

        return find_neighbors(
            vectors, cell_offsets, centroids, params.n_neighbors,
            n_probes=params.n_probes, target_recall=params.target_recall, pool=self.pool,
            seed=params.seed, memory_bytes=memory_bytes, advance=advance,
        )  # fmt: skip

    def layout(self, graph: ShardGraph, params: Params, n_total: int) -> CpuShardLayout:
        """Return the layout of a shard of a map of `n_total` rows."""
        return CpuShardLayout(graph, params, n_total, self.pool)

    def close(self) -> None:
        """End the threads."""
        self.pool.close()
