"""The GPU backend: implements `backends.base.Backend` with CuPy and CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from nomad_dask.backends.cpu.new_row_search import search_new_rows
from nomad_dask.backends.cpu.placement import place_new_rows
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
from nomad_dask.backends.gpu import block_reader, kmeans, projection
from nomad_dask.backends.gpu.cell_search import GpuCellSearch
from nomad_dask.backends.gpu.interpolation import interpolate
from nomad_dask.backends.gpu.joint_layout import GpuJointLayouts
from nomad_dask.backends.gpu.layout import GpuShardLayout
from nomad_dask.backends.gpu.nearest_cells import nearest_cells
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.gpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.joint import JointLayouts
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.backends.value_range import ValueRange, value_range
from nomad_dask.backends.weighted_lists import WeightedLists
from nomad_dask.params import Params
from nomad_dask.sources.base import Source
from nomad_dask.utils.threads import Threads


class GpuBackend:
    """Computes on the GPU of this process.

    Parameters
    ----------
    runtime : Runtime

    Attributes
    ----------
    runtime : Runtime
    joint_layouts : GpuJointLayouts
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.joint_layouts: JointLayouts | None = GpuJointLayouts(runtime)

    def read(self, source: Source, start: int, stop: int) -> Any:
        """Return rows `start` to `stop` (rows, n_dims) of a source on the device; never write into them."""
        with translate_oom(self.runtime, f"a block of {stop - start:,} rows"):
            return block_reader.read(source, start, stop, self.runtime)

    def check_finite(self, rows: Any, start: int, name: str) -> None:
        """Raise an `InputError` that names the first of the rows with NaN or infinity."""
        with translate_oom(self.runtime, f"a block of {len(rows):,} rows"):
            block_reader.check_finite(rows, start, name, self.runtime)

    def value_range(self, rows: Any, metric: str) -> ValueRange:
        """Return the range of the values of finite rows."""
        with translate_oom(self.runtime, f"a block of {len(rows):,} rows"):
            return value_range(rows, metric, self.runtime.xp)

    def to_float32(self, rows: Any, metric: str) -> Any:
        """Return rows as float32 on the device, scaled to unit length for cosine."""
        with translate_oom(self.runtime, f"a block of {len(rows):,} rows"):
            return block_reader.to_float32(rows, metric, self.runtime)

    def gather_to_host(self, rows: Any, order: np.ndarray) -> np.ndarray:
        """Return ``rows[order]`` on the host."""
        with translate_oom(self.runtime, f"a block of {len(rows):,} rows"):
            return block_reader.gather_to_host(rows, order, self.runtime)

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
        """Return the principal axes of a sample (rows, n_dims)."""
        with translate_oom(self.runtime, f"the principal axes of {len(sample):,} rows"):
            return projection.fit_axes(sample, n_axes, seed, self.runtime)

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int, parents: np.ndarray | None = None) -> CellTree:
        """Return about `n_cells` K-Means cells of a sample."""
        with translate_oom(self.runtime, f"{n_cells:,} cells of {len(sample):,} rows"):
            return kmeans.fit_cells(sample, n_cells, seed, self.runtime, parents)

    def assign(self, rows: Any, cells: CellTree) -> np.ndarray:
        """Return the cell (rows,) int32 of each row."""
        with translate_oom(self.runtime, f"the cells of {len(rows):,} rows"):
            return kmeans.assign(rows, cells, self.runtime)

    def project(self, rows: Any, axes: PrincipalAxes) -> Any:
        """Return coordinates (rows, n_axes) float32 along the axes."""
        with translate_oom(self.runtime, f"the coordinates of {len(rows):,} rows"):
            return projection.project(rows, axes, self.runtime)

    def nearest_cells(self, centroids: np.ndarray, cells: np.ndarray, m: int) -> np.ndarray:
        """Return the nearest cells (n, min(m, n_cells)) int32 of some cells (n,), nearest first; none is missed."""
        with translate_oom(self.runtime, f"the nearest of {len(centroids):,} cells"):
            centers = self.runtime.upload(centroids - centroids.mean(axis=0))
            return self.runtime.download(nearest_cells(centers, cells, m, self.runtime))

    def create_search(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        seed: int,
        memory_bytes: int,
        n_queries: int,
    ) -> GpuCellSearch:
        """Return the primitives of the neighbor search over rows sorted by cell."""
        with translate_oom(self.runtime, "the neighbor search of a shard"):
            return GpuCellSearch(vectors, cell_offsets, centroids, self.runtime, seed, memory_bytes, n_queries)

    def symmetric_graph(
        self, lists: WeightedLists, ranges: Iterable[tuple[int, int]], levels: np.ndarray | None
    ) -> Iterator[EdgeRange]:
        """Yield the symmetric graph of directed edges, range of rows by range of rows."""
        with translate_oom(self.runtime, f"the graph of {lists.n_rows:,} rows"):
            yield from symmetric_graph(lists, ranges, levels, self.runtime)

    def search_new_rows(
        self, stored: StoredRows, new: NewRows, k: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and squared distances (n, k) of the nearest stored rows of new rows; computed on the host."""
        return search_new_rows(stored, new, k, Threads(1), on_progress)

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
        with translate_oom(self.runtime, f"the initial positions of {vectors.n_rows:,} rows"):
            return interpolate(vectors, cell_offsets, centroids, anchors, self.runtime, cache_bytes, on_progress)

    def place_new_rows(
        self, stored: np.ndarray, graph: NewRowGraph, mesh_spacing: float, steps: list[StepParams]
    ) -> np.ndarray:
        """Return positions (n, dim) float32 of new rows after some epochs; computed on the host."""
        return place_new_rows(stored, graph, mesh_spacing, steps, Threads(1))

    def create_layout(
        self, graph: ShardGraph, params: Params, n_total: int, max_mesh_nodes: int = MAX_MESH_NODES
    ) -> GpuShardLayout:
        """Return the layout of a shard of a map of `n_total` rows, whose mesh is on the device."""
        with translate_oom(self.runtime, f"the layout of a shard of {graph.n_rows:,} rows"):
            return GpuShardLayout(graph, params, n_total, self.runtime)

    def close(self) -> None:
        """Return unused memory to the device."""
        self.runtime.free_pools()
