"""The seam between CPU and GPU: what a backend must offer, and the data that crosses it.

Nothing outside this package asks which backend it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nomad_dask.params import Params

if TYPE_CHECKING:
    from nomad_dask.backends.row_reader import ShardVectors
    from nomad_dask.sources.base import Source


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of a sample.

    Attributes
    ----------
    mean : ndarray of float32 (n_dims,)
    components : ndarray of float32 (n_axes, n_dims)
        Orthonormal, widest first.
    std : float
        Standard deviation of the sample along the first axis.
    """

    mean: np.ndarray
    components: np.ndarray
    std: float


@dataclass(frozen=True)
class CellTree:
    """K-Means cells as a tree of two levels.

    Attributes
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
        Sorted by their parent.
    parents : ndarray of float32 (n_parents, n_dims)
        One parent when there are few cells.
    offsets : ndarray of int64 (n_parents + 1,)
        Parent p has the cells ``offsets[p]`` to ``offsets[p + 1]``.
    """

    centroids: np.ndarray
    parents: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class ShardGraph:
    """What the layout of a shard needs to know; rows in cell order.

    Attributes
    ----------
    cell_offsets : ndarray of int64 (cells + 1,)
        Rows of each own cell.
    patch_of_row : ndarray of int32 (rows,)
        Own patch of each row: a few near rows, whose mean stands for them in other shards.
    patch_counts : ndarray of int64 (patches,)
        Rows of each own patch.
    first_patch : int
        Number of the first own patch among those of all shards.
    sampled_cells : ndarray of int64 (cells, n_exact)
        For each own cell the own cells nearest to it, itself first, -1 for none.
    indptr, indices, weights : ndarray of int64, int32, float32
        CSR of a_ij = p(j|i) + p(i|j).
    conditional_p : ndarray of float32 or None
        p(j|i) on the same edges, for one normaliser a point; p(i|j) is the rest of a_ij.
    cross_indptr, cross_patches, cross_weights : ndarray of int64, int32, float32
        CSR of the patches of other shards that attract a row, and with what weight.
    """

    cell_offsets: np.ndarray
    patch_of_row: np.ndarray
    patch_counts: np.ndarray
    first_patch: int
    sampled_cells: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    conditional_p: np.ndarray | None
    cross_indptr: np.ndarray
    cross_patches: np.ndarray
    cross_weights: np.ndarray

    @property
    def n_rows(self) -> int:
        """Rows of the shard."""
        return len(self.indptr) - 1


@dataclass(frozen=True)
class StepParams:
    """The numbers one epoch needs.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    rate, momentum, max_step_norm : float
        v ← momentum·v + rate·g, with ‖v‖ clipped at `max_step_norm` map units.
    attract : float
        Factor on the attraction.
    measure_loss : bool
        Whether this epoch's loss is wanted.
    """

    epoch: int
    rate: float
    momentum: float
    max_step_norm: float
    attract: float
    measure_loss: bool = False


@dataclass(frozen=True)
class RemoteState:
    """The other shards, as one shard sees them during an epoch.

    Attributes
    ----------
    patch_moments : ndarray of float32 (patches of all shards, dim + 1)
        Mean of each patch, and its variance summed over the axes.
    patch_counts : ndarray of float32 (patches of all shards,)
        Rows of each patch, own patches included.
    points : ndarray of float32 (m, dim)
        Charges that stand for the others' rows.
    weights : ndarray of float32 (m,)
        Rows that each stands for.
    z : float or None
        The others' part of Z, an epoch ago; None when not known yet.
    local_z : float or None
        The own part of Z at that time.
    """

    patch_moments: np.ndarray
    patch_counts: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    z: float | None
    local_z: float | None


@dataclass(frozen=True)
class EpochResult:
    """What an epoch tells: the shard's part of Z (before the step) and of the loss (None if not measured)."""

    z: float
    loss: float | None


class CellSearch(Protocol):
    """The primitives of the neighbour search over rows sorted by cell; see `cpu.knn.CellSearch`."""

    vectors: ShardVectors
    n_queries: int
    n_cells: int

    @property
    def mean_probed_rows(self) -> float:
        """Rows that a probe of one cell meets in the mean."""

    def build_filter(self, n_axes: int | None) -> None:
        """Choose in how many axes distances are screened; None takes all dimensions."""

    def load(self) -> None:
        """Take the rows into memory again, as far as there is room; `build_filter` does so the first time."""

    def unload(self) -> None:
        """Give the memory of the rows back until `load`; what was learnt of them stays."""

    def can_refine(self, k: int) -> bool:
        """Whether `refine` fits in memory for lists of k."""

    def brute_force(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the true neighbours of a few rows and their squared distances."""

    def calibrate_filter(self, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        """Learn from true neighbours how to read the screen."""

    def cell_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for true neighbours how many cells are nearer to the row than theirs."""

    def filter_ranks(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return for true neighbours how many rows the screen takes for nearer."""

    def probe(
        self, k: int, n_probes: int, n_candidates: int, advance: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and squared distances of the nearest rows in the nearest cells."""

    def refine(
        self, ids: np.ndarray, distances: np.ndarray, fresh: np.ndarray, fan: int, n_trials: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the lists of all rows, those searched for improved by trying the neighbours of neighbours."""


class ShardLayout(Protocol):
    """Positions and velocities of one shard, and the kernels that move them."""

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Take up a state, both float32 (rows, dim)."""

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities on the host."""

    def positions(self, rows: slice) -> np.ndarray:
        """Return a copy of the positions (k, dim) float32 of some rows on the host."""

    def epoch(self, step: StepParams, remote: RemoteState) -> EpochResult:
        """Move every row once."""

    def patches(self) -> np.ndarray:
        """Return means and standard deviations (patches, 2·dim) float32 of the own patches."""


class Backend(Protocol):
    """Everything that is computed on vectors and positions.

    Rows come and go as NumPy arrays, or as the backend's own kind of array, which `read` and `to_float32` give
    and `project` keeps: so a block of rows stays on a GPU from the disk until `gather_to_host`.
    """

    name: str

    def read(self, source: Source, start: int, stop: int) -> Any:
        """Return rows `start` to `stop` (rows, n_dims) of a source in its dtype; never write into them."""

    def check_finite(self, rows: Any, start: int, name: str) -> None:
        """Raise the `InputError` of `sources.rows.check_finite` for rows with NaN or infinity."""

    def to_float32(self, rows: Any, metric: str) -> Any:
        """Return rows as the method sees them: float32, of unit length for cosine. The input stays as it is."""

    def gather_to_host(self, rows: Any, order: np.ndarray) -> np.ndarray:
        """Return a NumPy array of some rows, in the order of their numbers."""

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
        """Return the principal axes of a sample (rows, n_dims)."""

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int) -> CellTree:
        """Return about `n_cells` K-Means cells of a sample."""

    def assign(self, rows: Any, cells: CellTree) -> np.ndarray:
        """Return the cell (rows,) int32 of each row, as a NumPy array."""

    def project(self, rows: Any, axes: PrincipalAxes) -> Any:
        """Return coordinates (rows, n_axes) float32 along the axes, as the kind of array that the rows are."""

    def searcher(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        seed: int,
        memory_bytes: int,
        n_queries: int,
    ) -> CellSearch:
        """Return the primitives of the neighbour search over rows sorted by cell."""

    def layout(self, graph: ShardGraph, params: Params, n_total: int) -> ShardLayout:
        """Return the layout of a shard of a map of `n_total` rows."""

    def close(self) -> None:
        """Give back threads and memory."""
