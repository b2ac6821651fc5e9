"""What backends take and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from nomad_dask.backends.row_reader import ShardVectors


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of a sample.

    Attributes
    ----------
    mean : ndarray of float32 (n_dims,)
    components : ndarray of float32 (n_axes, n_dims)
        Orthonormal rows, sorted by decreasing variance.
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
        Sorted by parent.
    parents : ndarray of float32 (n_parents, n_dims)
        A single one when there are few cells.
    offsets : ndarray of int64 (n_parents + 1,)
        The cells of parent p are ``offsets[p]`` to ``offsets[p + 1]``.
    """

    centroids: np.ndarray
    parents: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class ShardGraph:
    """The graph of one shard, its rows in cell order, and how other shards see these rows.

    A patch is a small group of neighboring rows; other shards receive its mean and variance instead of the rows.

    Attributes
    ----------
    cell_offsets : ndarray of int64 (n_cells + 1,)
        The rows of cell c are ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    patch_of_row : ndarray of int32 (n_rows,)
        Patch of each row, counted within the shard.
    patch_counts : ndarray of int64 (n_patches,)
        Rows of each patch of the shard.
    first_patch : int
        Index of the shard's first patch among the patches of all shards.
    sampled_cells : ndarray of int64 (n_cells, n_sampled)
        For each cell the nearest cells of the shard, itself first; -1 fills up.
    indptr, indices : ndarray of int64, int32
        CSR of the edges within the shard.
    weights : ndarray of float32
        a_ij = p(j|i) + p(i|j) of each edge, or of each code if there are codes.
    weight_codes : ndarray of uint8 (n_edges,) or None
        The weight of edge e is ``weights[weight_codes[e]]``. None without codes.
    conditional_p : ndarray of float32 or None
        p(j|i) of the same edges, for one normalizer per point; p(i|j) is the rest of a_ij.
    cross_indptr, cross_patches, cross_weights : ndarray of int64, int32, float32
        CSR of the patches of other shards that attract each row, and their weights.
    """

    cell_offsets: np.ndarray
    patch_of_row: np.ndarray
    patch_counts: np.ndarray
    first_patch: int
    sampled_cells: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    weight_codes: np.ndarray | None
    conditional_p: np.ndarray | None
    cross_indptr: np.ndarray
    cross_patches: np.ndarray
    cross_weights: np.ndarray

    @property
    def n_rows(self) -> int:
        """Rows of the shard."""
        return len(self.indptr) - 1


@dataclass(frozen=True)
class Anchors:
    """Rows of a shard whose positions are known.

    Attributes
    ----------
    rows : ndarray of int64 (n_anchors,)
        Ascending.
    positions : ndarray of float32 (n_anchors, dim)
    """

    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class StoredRows:
    """The rows of a finished map, in the order of their cells.

    Attributes
    ----------
    vectors : ShardVectors
    cell_offsets : ndarray of int64 (n_cells + 1,)
        Cell c has the rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray of float32 (n_cells, n_dims)
        Means of the cells.
    """

    vectors: ShardVectors
    cell_offsets: np.ndarray
    centroids: np.ndarray


@dataclass(frozen=True)
class NewRows:
    """New rows whose neighbors among stored ones are searched for, in groups that search the same cells.

    Attributes
    ----------
    vectors : ndarray of float32 (n, n_dims)
    offsets : ndarray of int64 (n_groups + 1,)
        Group g has the rows ``offsets[g]`` to ``offsets[g + 1]``.
    probed_cells : ndarray of int32 (n_groups, n_probes)
        Cells of stored rows that each group searches.
    """

    vectors: np.ndarray
    offsets: np.ndarray
    probed_cells: np.ndarray


@dataclass(frozen=True)
class StepParams:
    """Parameters of one epoch.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    learning_rate, momentum, max_step_norm : float
        v ← momentum·v + learning_rate·g, with ‖v‖ clipped at `max_step_norm` map units.
    exaggeration : float
        Factor on the attraction.
    measure_loss : bool
        Whether to measure the loss of this epoch.
    """

    epoch: int
    learning_rate: float
    momentum: float
    max_step_norm: float
    exaggeration: float
    measure_loss: bool = False


@dataclass(frozen=True)
class NewRowGraph:
    """New rows and the stored rows that attract them.

    Attributes
    ----------
    start : ndarray of float32 (n, dim)
        Positions to begin with.
    neighbors : ndarray of int64 (n, k)
        Stored rows, nearest first; -1 where there are fewer.
    weights : ndarray of float32 (k,)
        Attraction of the neighbor of each rank.
    repulsion_factor : float
        Factor on the repulsion by all other rows, n/Z of the whole map times two.
    """

    start: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray
    repulsion_factor: float


@dataclass(frozen=True)
class RemoteState:
    """The other shards, as one shard sees them during an epoch.

    Attributes
    ----------
    patch_moments : ndarray of float32 (patches of all shards, dim + 1)
        Mean of each patch, and its variance summed over the axes.
    patch_counts : ndarray of float32 (patches of all shards,)
        Rows of each patch, those of this shard included.
    points : ndarray of float32 (m, dim)
        Charges that represent the rows of other shards.
    weights : ndarray of float32 (m,)
        Rows that each charge represents.
    partition_sum : float or None
        The other shards' part of Z in the previous epoch; None before the first exchange.
    local_partition_sum : float or None
        This shard's part of Z in the same epoch.
    """

    patch_moments: np.ndarray
    patch_counts: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    partition_sum: float | None
    local_partition_sum: float | None


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch of one shard.

    Attributes
    ----------
    partition_sum : float
        The shard's part of Z = Σ_i Z_i before the step.
    loss : float or None
        The shard's part of the loss before the step; None where it was not measured.
    """

    partition_sum: float
    loss: float | None


TAIL_STRIDE = 4
"""A neighbor in the tail of a list stands for so many successive ranks."""


@dataclass(frozen=True)
class ListLengths:
    """How many neighbors a search keeps of each row.

    Attributes
    ----------
    k : int
        The nearest ones.
    n_tail : int
        One of every `TAIL_STRIDE` behind them.
    """

    k: int
    n_tail: int = 0

    @property
    def n_ranks(self) -> int:
        """Ranks from which they come."""
        return self.k + TAIL_STRIDE * self.n_tail

    def tail_of(self, ids: Any) -> Any:
        """Return the tail (n_rows, n_tail) of lists of `n_ranks` rows: the second of every four."""
        return ids[:, self.k + TAIL_STRIDE // 2 - 1 :: TAIL_STRIDE]


class NeighborLists(NamedTuple):
    """The nearest rows found so far for some rows: a tuple, as kernels take it whole.

    Attributes
    ----------
    ids : ndarray of int32 (n_rows, k)
        Positions within the rows that are searched, nearest first; -1 where fewer than k were found.
    distances : ndarray of float32 (n_rows, k)
        Squared distances, inf where the id is -1.
    is_new : ndarray of uint8 (n_rows, k)
        1 for entries that the last step added.
    """

    ids: np.ndarray
    distances: np.ndarray
    is_new: np.ndarray


@dataclass(frozen=True)
class EdgeRange:
    """The edges of a range of rows of a symmetric graph, as CSR.

    Attributes
    ----------
    indptr : ndarray of int64 (n_rows + 1,)
        The edges of row i of the range are ``indptr[i]`` to ``indptr[i + 1]``.
    indices : ndarray of int32 (n_edges,)
        Ascending in each row.
    values : tuple of ndarray (n_edges,)
        Codes uint8 of the weights a_ij = p(j|i) + p(i|j), or the weights float32 and p(j|i) float32.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: tuple[np.ndarray, ...]
