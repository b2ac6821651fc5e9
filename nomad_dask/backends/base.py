"""The contract between the package and its backends, whose data are in `backends.data`.

No module outside `backends` asks which backend it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nomad_dask.backends.data import (
    Anchors,
    CellTree,
    EdgeRange,
    EpochResult,
    ListLengths,
    NeighborLists,
    NewRowGraph,
    NewRows,
    PrincipalAxes,
    RemoteState,
    ShardGraph,
    StepParams,
    StoredRows,
)
from nomad_dask.backends.joint import JointLayouts, ShardPoints
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.params import Params

if TYPE_CHECKING:
    from nomad_dask.backends.row_reader import ShardVectors
    from nomad_dask.backends.value_range import ValueRange
    from nomad_dask.backends.weighted_lists import WeightedLists
    from nomad_dask.sources.base import Source


class CellSearch(Protocol):
    """Primitives of the neighbor search over the rows of one shard, sorted by cell.

    Distances are squared. A filter, the leading principal axes of the rows, gives approximate distances; the
    nearest rows by these get exact ones.

    Attributes
    ----------
    vectors : ShardVectors
        The rows of the shard, followed by those of its halo.
    n_queries : int
        The first `n_queries` rows are searched for; all rows can be neighbors.
    n_cells : int
        Cells that are not empty.
    """

    vectors: ShardVectors
    n_queries: int
    n_cells: int

    @property
    def mean_probed_rows(self) -> float:
        """Mean number of rows in a probed cell."""

    def build_filter(self, n_axes: int | None) -> None:
        """Fit the filter with `n_axes` principal axes, or with all dimensions for None, and load the rows.

        The cells are those of the shard until `split_cells`.
        """

    def split_cells(self, part_rows: int) -> None:
        """Search smaller cells of about `part_rows` rows from now on, where this is worthwhile; see `build_filter`."""

    def load(self) -> None:
        """Load rows and filter into memory, each if it fits; `build_filter` does so the first time."""

    def unload(self) -> None:
        """Free the memory of the rows until `load`; the fitted filter stays."""

    def can_refine(self, k: int) -> bool:
        """Return whether `refine` is worthwhile here and fits in memory for lists of k neighbors."""

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the true neighbors (m, k) int32 of sampled rows (m,) and their distances (m, k) float32."""

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Fit how distances of the filter relate to true ones, from the true neighbors of sampled rows."""

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for each true neighbor (m, k) how many cells are nearer to the row than the neighbor's."""

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for each true neighbor (m, k) how many rows the filter ranks before it."""

    def probe(
        self, lengths: ListLengths, n_probes: int, n_candidates: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search the `n_probes` nearest cells of each row.

        Parameters
        ----------
        lengths : ListLengths
        n_probes : int
        n_candidates : int
            Rows per query that the filter passes on for exact distances.
        on_progress : callable
            Receives the number of rows done so far.

        Returns
        -------
        ids, distances : ndarray of int32, float32 (n_rows, k)
            The nearest rows. Rows that are not searched for have ids -1 and distances inf.
        tail : ndarray of int32 (n_rows, n_tail)
            One of every `TAIL_STRIDE` of the next rows, nearest first; -1 fills up.
        """

    def refine(self, lists: NeighborLists, n_probes: int, max_candidates: int, n_trials: int) -> NeighborLists:
        """Return the lists of all rows after one NN-descent round.

        Parameters
        ----------
        lists : NeighborLists
            Those of the previous round: pairs of entries that were not new then have been tried.
        n_probes : int
            As for `probe`: rows in these cells have been tried too.
        max_candidates : int
            Neighbors of a neighbor to try, in each direction of the edges.
        n_trials : int
            Rows per query that the filter passes on for exact distances.
        """


class ShardLayout(ShardPoints, Protocol):
    """Positions and velocities of one shard, and the kernels that move them."""

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Set positions and velocities, both float32 (n_rows, dim)."""

    def run_epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""

    def patch_moments(self) -> np.ndarray:
        """Return means and standard deviations (n_patches, 2·dim) float32 of the shard's patches."""


class Backend(Protocol):
    """All computations on vectors and positions.

    Rows are NumPy arrays, or arrays of the backend as `read` and `to_float32` return them and `project` keeps
    them: a block of rows stays on a GPU from the disk until `gather_to_host`.

    Attributes
    ----------
    joint_layouts : JointLayouts or None
        None if there are none.
    """

    joint_layouts: JointLayouts | None

    def read(self, source: Source, start: int, stop: int) -> Any:
        """Return rows `start` to `stop` (rows, n_dims) of a source in its dtype; never write into them."""

    def check_finite(self, rows: Any, start: int, name: str) -> None:
        """Raise the `InputError` of `sources.validation.check_finite` for rows with NaN or infinity."""

    def value_range(self, rows: Any, metric: str) -> ValueRange:
        """Return the range of the values of finite rows."""

    def to_float32(self, rows: Any, metric: str) -> Any:
        """Return rows as float32, scaled to unit length for cosine; the input is not modified."""

    def gather_to_host(self, rows: Any, order: np.ndarray) -> np.ndarray:
        """Return ``rows[order]`` as a NumPy array."""

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
        """Return the principal axes of a sample (rows, n_dims)."""

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int, parents: np.ndarray | None = None) -> CellTree:
        """Return about `n_cells` K-Means cells of a sample; their parents (n_parents, n_dims) may be given."""

    def assign(self, rows: Any, cells: CellTree) -> np.ndarray:
        """Return the cell (rows,) int32 of each row, as a NumPy array."""

    def project(self, rows: Any, axes: PrincipalAxes) -> Any:
        """Return coordinates (rows, n_axes) float32 along the axes, as an array of the same type as the rows."""

    def nearest_cells(self, centroids: np.ndarray, cells: np.ndarray, m: int) -> np.ndarray:
        """Return the nearest cells (n, min(m, n_cells)) int32 of some cells (n,), nearest first.

        A cell is among its own nearest cells. Of many cells, about one in a thousand of the nearest may be missed.
        """

    def create_search(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        seed: int,
        memory_bytes: int,
        n_queries: int,
    ) -> CellSearch:
        """Return the primitives of the neighbor search over rows sorted by cell."""

    def symmetric_graph(
        self, lists: WeightedLists, ranges: Iterable[tuple[int, int]], levels: np.ndarray | None
    ) -> Iterator[EdgeRange]:
        """Yield the symmetric graph of directed edges.

        Parameters
        ----------
        lists : WeightedLists
        ranges : iterable of (int, int)
            Ranges of rows, one after another, whose edges fit in memory. A range may be yielded in several parts.
        levels : ndarray of float32 (n_levels,) or None
            Weights are given by codes of the nearest of these, see `weight_codes`; with None, with p(j|i) besides.
        """

    def search_new_rows(
        self, stored: StoredRows, new: NewRows, k: int, on_progress: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest stored rows of new rows; for each row they depend on it and its probed cells only.

        Parameters
        ----------
        stored : StoredRows
        new : NewRows
        k : int
        on_progress : callable
            Receives the number of rows done so far.

        Returns
        -------
        ids : ndarray of int64 (n, k)
            Numbers of stored rows, nearest first, of equal distances the lower first; -1 where there are fewer.
        distances : ndarray of float32 (n, k)
            Squared distances; inf where there are fewer.
        """

    def interpolate(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        anchors: Anchors,
        cache_bytes: int,
        on_progress: Callable[[int], None],
    ) -> np.ndarray:
        """Return a position (n_rows, dim) float32 for each row of a shard: the mean of those of its nearest anchors.

        The anchors nearest to a row are searched for in the cells of `anchors.cells_to_search`, and weighted as in
        `anchors.mean_positions`.

        Parameters
        ----------
        vectors : ShardVectors
            Rows sorted by cell.
        cell_offsets, centroids : ndarray
            Cell c has rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
        anchors : Anchors
            At least one.
        cache_bytes : int
            Memory in which the vectors of the anchors are held if they fit; else they are read again and again.
        on_progress : callable
            Receives the number of rows done so far.
        """

    def place_new_rows(
        self, stored: np.ndarray, graph: NewRowGraph, mesh_spacing: float, steps: list[StepParams]
    ) -> np.ndarray:
        """Return positions (n, dim) float32 of new rows after some epochs in which the stored rows do not move.

        New rows are repelled by the stored ones and by each other, and attracted by their neighbors.

        Parameters
        ----------
        stored : ndarray of float32 (n_stored, dim)
            Positions of the stored rows.
        graph : NewRowGraph
        mesh_spacing : float
            See `Params`.
        steps : list of StepParams
            One for each epoch.
        """

    def create_layout(
        self, graph: ShardGraph, params: Params, n_total: int, max_mesh_nodes: int = MAX_MESH_NODES
    ) -> ShardLayout:
        """Return the layout of a shard of a map of `n_total` rows; the mesh in host memory has a maximum size."""

    def close(self) -> None:
        """Free threads and memory."""
