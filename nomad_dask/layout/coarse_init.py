"""Initial positions from a coarse map: each row starts between the nearest rows of that map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors

# The width of a map of n points is about proportional to √n. The coarse map is scaled to this standard deviation
# over √n, and grows from there (algorithm §4b, where it is a factor on the coarse map, whose size depends on its
# epochs). The jitter is relative to that.
_INITIAL_STD = 0.23
_JITTER = 0.5
# Anchors, the rows of the coarse map, that determine the start of a row; and cells searched for them.
_N_ANCHORS = 4
_MIN_CELLS = 8
_MAX_CELLS = 48


@dataclass(frozen=True)
class CoarseScale:
    """The size of a start from a coarse map.

    Attributes
    ----------
    factor : float
        On the positions of the coarse map.
    jitter : float
        Standard deviation of the jitter, in map units.
    """

    factor: float
    jitter: float


def coarse_scale(coarse: np.ndarray, n_rows: int, init_std: float, weight: float) -> CoarseScale:
    """Return the size of the start of a map of `n_rows` rows.

    Parameters
    ----------
    coarse : ndarray (m, dim)
        The coarse map.
    n_rows : int
    init_std : float
        Standard deviation of a start without a coarse map.
    weight : float
        See `coarse_weight`.
    """
    full_std = _INITIAL_STD * n_rows ** (1 / coarse.shape[1])
    std = (1 - weight) * init_std + weight * full_std
    return CoarseScale(float(std / max(coarse.std(axis=0).mean(), 1e-6)), _JITTER * std / full_std)


def interpolate_init(
    vectors: ShardVectors,
    cell_offsets: np.ndarray,
    centroids: np.ndarray,
    anchors: np.ndarray,
    positions: np.ndarray,
    scale: CoarseScale,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return initial positions (n_rows, dim) float32: means of the nearest anchors, weighted 1, 1/2, 1/3, 1/4.

    Parameters
    ----------
    vectors : ShardVectors
    cell_offsets, centroids : ndarray
        Cells of the shard.
    anchors : ndarray of int64 (n_anchors,)
        Rows of the shard that are in the coarse map, ascending.
    positions : ndarray of float32 (n_anchors, dim)
        Positions of the anchors in the coarse map.
    scale : CoarseScale
    rng : numpy.random.Generator
    """
    n_cells, dim = len(centroids), positions.shape[1]
    initial = np.empty((vectors.n_rows, dim), np.float32)
    anchor_offsets = np.searchsorted(anchors, cell_offsets)
    nearby_cells = nearest_cells(centroids, np.arange(n_cells), _MAX_CELLS)
    anchor_vectors: dict[int, np.ndarray] = {}

    def read_cell(cell: int) -> np.ndarray:
        return vectors.read(int(cell_offsets[cell]), int(cell_offsets[cell + 1]))

    def read_anchors(cell: int) -> np.ndarray:
        if cell not in anchor_vectors:
            in_cell = anchors[anchor_offsets[cell] : anchor_offsets[cell + 1]] - cell_offsets[cell]
            anchor_vectors[cell] = read_cell(cell)[in_cell]
        return anchor_vectors[cell]

    for cell in range(n_cells):
        searched = _cells_to_search(nearby_cells[cell], anchor_offsets)
        targets = np.concatenate([read_anchors(int(c)) for c in searched])
        target_positions = np.concatenate([positions[anchor_offsets[c] : anchor_offsets[c + 1]] for c in searched])
        initial[cell_offsets[cell] : cell_offsets[cell + 1]] = _interpolate(
            read_cell(cell) - centroids[cell], targets - centroids[cell], target_positions
        )
    initial *= scale.factor
    initial += rng.standard_normal(initial.shape) * scale.jitter
    return initial


def _cells_to_search(nearby_cells: np.ndarray, anchor_offsets: np.ndarray) -> np.ndarray:
    """Return the nearest cells that contain enough anchors; all cells, if the nearby ones do not."""
    n_anchors = int(anchor_offsets[-1])
    counts = np.cumsum(anchor_offsets[nearby_cells + 1] - anchor_offsets[nearby_cells])
    n_needed = int(np.searchsorted(counts, min(_N_ANCHORS, n_anchors))) + 1
    if n_needed > len(nearby_cells):
        return np.arange(len(anchor_offsets) - 1)
    return nearby_cells[: max(_MIN_CELLS, n_needed)]


def _interpolate(rows: np.ndarray, targets: np.ndarray, target_positions: np.ndarray) -> np.ndarray:
    """Return the weighted means of the positions of the targets nearest to each row."""
    # |a - b|² without the term that is the same for all targets of a row.
    distances = np.einsum("ij,ij->i", targets, targets) - 2 * rows @ targets.T
    n = min(_N_ANCHORS, len(targets))
    nearest = np.argpartition(distances, n - 1, axis=1)[:, :n]
    ranks = np.argsort(np.argsort(np.take_along_axis(distances, nearest, 1), axis=1), axis=1)
    weights = 1 / (ranks + 1)
    weights /= weights.sum(axis=1, keepdims=True)
    means: np.ndarray = (target_positions[nearest] * weights[:, :, None]).sum(axis=1)
    return means
