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
    from nomad_dask.partition.store import ShardVectors


@dataclass(frozen=True)
class Axes:
    """Principal axes of a sample.

    Attributes
    ----------
    mean : ndarray of float32 (n_dims,)
    components : ndarray of float32 (n_axes, n_dims)
        Orthonormal, widest first.
    deviation : float
        Standard deviation of the sample along the first axis.
    """

    mean: np.ndarray
    components: np.ndarray
    deviation: float


@dataclass(frozen=True)
class Cells:
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
    global_cells : ndarray of int64 (cells,)
        Number of each own cell among the cells of all shards.
    exact_cells : ndarray of int64 (cells, n_exact)
        For each own cell the own cells nearest to it, itself first, -1 for none.
    indptr, indices, weights : ndarray of int64, int32, float32
        CSR of a_ij = p(j|i) + p(i|j).
    forward : ndarray of float32 or None
        p(j|i) on the same edges, for one normaliser a point; p(i|j) is the rest of a_ij.
    near_cells : ndarray of int32 (rows, m)
        Foreign cells that attract a row.
    near_weights : ndarray of float32 (rows, m)
        With what weight.
    """

    cell_offsets: np.ndarray
    global_cells: np.ndarray
    exact_cells: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    forward: np.ndarray | None
    near_cells: np.ndarray
    near_weights: np.ndarray

    @property
    def n_rows(self) -> int:
        """Rows of the shard."""
        return len(self.indptr) - 1


@dataclass(frozen=True)
class Step:
    """The numbers one epoch needs.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    rate, momentum, max_step : float
        v ← momentum·v + rate·g, with ‖v‖ clipped at `max_step` map units.
    attract : float
        Factor on the attraction.
    measure_loss : bool
        Whether this epoch's loss is wanted.
    """

    epoch: int
    rate: float
    momentum: float
    max_step: float
    attract: float
    measure_loss: bool = False


@dataclass(frozen=True)
class Remote:
    """The other shards, as one shard sees them during an epoch.

    Attributes
    ----------
    cell_means : ndarray of float32 (cells of all shards, dim)
    cell_counts : ndarray of float32 (cells of all shards,)
        Rows of each cell, own cells included.
    points : ndarray of float32 (m, dim)
        Means of the others' layout cells.
    weights : ndarray of float32 (m,)
        Their rows.
    z : float or None
        The others' part of Z; None when not known yet.
    """

    cell_means: np.ndarray
    cell_counts: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    z: float | None


@dataclass(frozen=True)
class Outcome:
    """What an epoch tells: the shard's part of Z (before the step) and of the loss (None if not measured)."""

    z: float
    loss: float | None


class ShardLayout(Protocol):
    """Positions and velocities of one shard, and the kernels that move them."""

    def load(self, positions: np.ndarray, velocity: np.ndarray) -> None:
        """Take up a state, both float32 (rows, dim)."""

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of positions and velocities on the host."""

    def epoch(self, step: Step, remote: Remote) -> Outcome:
        """Move every row once."""

    def cell_means(self) -> np.ndarray:
        """Return the means (cells, dim) of the own K-Means cells."""

    def grid_means(self) -> np.ndarray:
        """Return count and mean (m, 1 + dim) of the non-empty layout cells."""


class Backend(Protocol):
    """Everything that is computed on vectors and positions."""

    name: str

    def fit_axes(self, sample: np.ndarray, n_axes: int, seed: int) -> Axes:
        """Return the principal axes of a sample (rows, n_dims)."""

    def fit_cells(self, sample: np.ndarray, n_cells: int, seed: int) -> Cells:
        """Return about `n_cells` K-Means cells of a sample."""

    def assign(self, rows: np.ndarray, cells: Cells) -> np.ndarray:
        """Return the cell (rows,) int32 of each row."""

    def project(self, rows: np.ndarray, axes: Axes) -> np.ndarray:
        """Return coordinates (rows, n_axes) float32 along the axes."""

    def search(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        params: Params,
        memory_bytes: int,
        advance: Callable[[int], None],
    ) -> Any:
        """Return the `neighbors.search.Neighbors` of the rows of a shard."""

    def layout(self, graph: ShardGraph, params: Params, n_total: int) -> ShardLayout:
        """Return the layout of a shard of a map of `n_total` rows."""

    def close(self) -> None:
        """Give back threads and memory."""
