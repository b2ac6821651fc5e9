"""The CPU backend: `backends.base.Backend` in NumPy, SciPy and Numba."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nomad_dask.backends.cpu import kmeans, projection
from nomad_dask.backends.cpu.cell_search import CpuCellSearch
from nomad_dask.backends.cpu.fft_convolution import KernelTransforms
from nomad_dask.backends.cpu.interpolation import interpolate
from nomad_dask.backends.cpu.layout import CpuShardLayout
from nomad_dask.backends.cpu.mesh_kernels import mesh_kernels
from nomad_dask.backends.cpu.new_row_search import search_new_rows
from nomad_dask.backends.cpu.placement import place_new_rows
from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.data import (
    Anchors,
    CellTree,
    EdgeRange,
    NewRowGraph,
    NewRows,
    PrincipalAxes,
    ShardGraph,
    StepParams,
    StoredRows,
)
from nomad_dask.backends.joint import JointLayouts
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors, to_float32
from nomad_dask.backends.value_range import ValueRange, value_range
from nomad_dask.backends.weight_codes import encode_weights
from nomad_dask.backends.weighted_lists import WeightedLists
from nomad_dask.params import Params
from nomad_dask.sources.base import Source
from nomad_dask.sources.validation import check_finite
from nomad_dask.utils.threads import Threads

_PROJECT_CHUNK = 8192


class CpuBackend:
    """Computations on `n_threads` threads of this process.

    Parameters
    ----------
    n_threads : int

    Attributes
    ----------
    joint_layouts : None
    """

    def __init__(self, n_threads: int) -> None:
        self.joint_layouts: JointLayouts | None = None
        self.pool = Threads(n_threads)
        self._transforms = KernelTransforms()

    def read(self, source: Source, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` (rows, n_dims) of a source in its dtype; never write into them."""
        return source.read(start, stop)

    def check_finite(self, rows: np.ndarray, start: int, name: str) -> None:
        """Raise an `InputError` that names the first of the rows with NaN or infinity."""
        check_finite(rows, start, name)

    def value_range(self, rows: np.ndarray, metric: str) -> ValueRange:
        """Return the range of the values of finite rows."""
        return value_range(rows, metric)

    def to_float32(self, rows: np.ndarray, metric: str) -> np.ndarray:
        """Return rows as float32, scaled to unit length for cosine; the input is not modified."""
        return to_float32(rows, metric)

    def gather_to_host(self, rows: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Return ``rows[order]``."""
        gathered: np.ndarray = rows[order]
        return gathered

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
        """Return the principal axes of a sample (rows, n_dims)."""
        return projection.fit_axes(sample, n_axes, seed)

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int, parents: np.ndarray | None = None) -> CellTree:
        """Return about `n_cells` K-Means cells of a sample."""
        return kmeans.fit_cells(sample, n_cells, seed, self.pool, parents)

    def assign(self, rows: np.ndarray, cells: CellTree) -> np.ndarray:
        """Return the cell (rows,) int32 of each row."""
        return kmeans.assign(rows, cells, self.pool)

    def project(self, rows: np.ndarray, axes: PrincipalAxes) -> np.ndarray:
        """Return coordinates (rows, n_axes) float32 along the axes."""
        out = np.empty((len(rows), len(axes.components)), np.float32)

        def project(start: int, stop: int) -> None:
            out[start:stop] = projection.project(rows[start:stop], axes)

        self.pool.run(project, len(rows), _PROJECT_CHUNK)
        return out

    def nearest_cells(self, centroids: np.ndarray, cells: np.ndarray, m: int) -> np.ndarray:
        """Return the nearest cells (n, min(m, n_cells)) int32 of some cells (n,); see `nearest_cells.nearest_cells`."""
        return nearest_cells(centroids, cells, m, self.pool.run)

    def create_search(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        seed: int,
        memory_bytes: int,
        n_queries: int,
    ) -> CpuCellSearch:
        """Return the primitives of the neighbor search over rows sorted by cell."""
        return CpuCellSearch(vectors, cell_offsets, centroids, self.pool, seed, memory_bytes, n_queries)

    def symmetric_graph(
        self, lists: WeightedLists, ranges: Iterable[tuple[int, int]], levels: np.ndarray | None
    ) -> Iterator[EdgeRange]:
        """Yield the symmetric graph of directed edges, range of rows by range of rows."""
        for rows in ranges:
            edges = symmetric_graph(lists, levels is None, rows, self.pool)
            values = [array for array in (edges.weights, edges.conditional_p) if array is not None]
            if levels is not None:
                values = [encode_weights(edges.weights, levels, self.pool)]
            yield EdgeRange(edges.indptr, edges.indices, tuple(values))

    def search_new_rows(
        self, stored: StoredRows, new: NewRows, k: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and squared distances (n, k) of the nearest stored rows of new rows."""
        return search_new_rows(stored, new, k, self.pool, on_progress)

    def interpolate(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        anchors: Anchors,
        cache_bytes: int,
        on_progress: Callable[[int], None],
    ) -> np.ndarray:
        """Return a position (n_rows, dim) float32 for each row of a shard: the mean of those of its nearest anchors."""
        return interpolate(vectors, cell_offsets, centroids, anchors, self.pool, cache_bytes, on_progress)

    def place_new_rows(
        self, stored: np.ndarray, graph: NewRowGraph, mesh_spacing: float, steps: list[StepParams]
    ) -> np.ndarray:
        """Return positions (n, dim) float32 of new rows after some epochs."""
        return place_new_rows(stored, graph, mesh_spacing, steps, self.pool)

    def create_layout(
        self, graph: ShardGraph, params: Params, n_total: int, max_mesh_nodes: int = MAX_MESH_NODES
    ) -> CpuShardLayout:
        """Return the layout of a shard of a map of `n_total` rows."""
        return CpuShardLayout(graph, params, n_total, self.pool, self._transforms, max_mesh_nodes)

    def close(self) -> None:
        """Stop the threads."""
        self.pool.close()


def load_kernels() -> None:
    """Run one small kernel: the first of a process makes Numba load for most of a second."""
    corner = np.zeros(2, np.float32)
    mesh_kernels(2).extent(np.zeros((1, 2), np.float32), corner, corner.copy())
