"""Where rows start: along the leading axes, or in the picture of a coarse map."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.nearest_cells import nearest_cells

# A map of n points needs about √n of room: this much is given at once (standard deviation over √n), the
# rest grows (algorithm §4b; there as a factor on the coarse map, whose own size depends on its epochs).
_ROOM = 0.23
_JITTER = 0.5
_ANCHORS = 4
_NEAR_CELLS = 8
_SEARCHED_CELLS = 48
# Starting positions are held within this many standard deviations, so that no stray row starts far out.
_FARTHEST = 10.0
# Least jitter, in standard deviations, so that rows that are all alike do not start on one point.
_FLOOR = 1e-4


def pca_init(coordinates: np.ndarray, std: float, init_std: float, rng: np.random.Generator) -> np.ndarray:
    """Return starting positions (n, dim) float32 from PCA coordinates, `init_std` wide on the first axis."""
    scaled = coordinates.astype(np.float64) / max(std, 1e-30) if std > 0 else np.zeros(coordinates.shape)
    lengths = np.sqrt((scaled**2).sum(axis=1))
    scaled *= np.minimum(1, _FARTHEST / np.maximum(lengths, 1e-30))[:, None]
    scaled += rng.standard_normal(scaled.shape) * _FLOOR
    return np.asarray(scaled * init_std, np.float32)


def density_scale(coarse: np.ndarray, n_rows: int) -> float:
    """Return the factor on a coarse map (m, dim) that gives the map of `n_rows` rows room to start in."""
    dim = coarse.shape[1]
    return float(_ROOM * n_rows ** (1 / dim) / max(coarse.std(axis=0).mean(), 1e-6))


def interpolate_init(
    vectors: ShardVectors,
    cell_offsets: np.ndarray,
    centroids: np.ndarray,
    anchors: np.ndarray,
    positions: np.ndarray,
    scale: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return starting positions (n, dim) float32: means of the nearest laid-out rows, weighted 1, 1/2, 1/3, 1/4.

    Parameters
    ----------
    vectors : ShardVectors
    cell_offsets, centroids : ndarray
        Cells of the shard.
    anchors : ndarray of int64 (m,)
        Rows of the shard that are laid out already, ascending.
    positions : ndarray of float32 (m, dim)
        Where.
    scale : float
        Factor on the coarse positions; see `density_scale`.
    """
    n_cells, dim = len(centroids), positions.shape[1]
    out = np.empty((vectors.n_rows, dim), np.float32)
    edges = np.searchsorted(anchors, cell_offsets)
    near_cells = nearest_cells(centroids, 0, n_cells, _SEARCHED_CELLS)
    held: dict[int, np.ndarray] = {}

    def anchors_of(cell: int) -> np.ndarray:
        if cell not in held:
            rows = vectors.read(int(cell_offsets[cell]), int(cell_offsets[cell + 1]))
            held[cell] = rows[anchors[edges[cell] : edges[cell + 1]] - cell_offsets[cell]]
        return held[cell]

    for cell in range(n_cells):
        rows = vectors.read(int(cell_offsets[cell]), int(cell_offsets[cell + 1]))
        order = near_cells[cell]
        reached = np.cumsum(edges[order + 1] - edges[order])
        enough = int(np.searchsorted(reached, min(_ANCHORS, len(anchors)))) + 1
        near = order[: max(_NEAR_CELLS, enough)] if enough <= len(order) else np.arange(n_cells)
        targets = np.concatenate([anchors_of(int(c)) for c in near])
        places = np.concatenate([positions[edges[c] : edges[c + 1]] for c in near])
        middle = centroids[cell]
        rows, targets = rows - middle, targets - middle
        gaps = np.einsum("ij,ij->i", targets, targets) - 2 * rows @ targets.T
        m = min(_ANCHORS, len(targets))
        nearest = np.argpartition(gaps, m - 1, axis=1)[:, :m]
        ranks = np.argsort(np.argsort(np.take_along_axis(gaps, nearest, 1), axis=1), axis=1)
        weights = 1 / (ranks + 1)
        weights /= weights.sum(axis=1, keepdims=True)
        out[cell_offsets[cell] : cell_offsets[cell + 1]] = (places[nearest] * weights[:, :, None]).sum(axis=1)
    out *= scale
    out += rng.standard_normal(out.shape) * _JITTER
    return out
