"""Initial positions of the rows: those of the shuffle, scaled; random ones; or from a coarse map."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import Anchors
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.cluster import report_progress
from nomad_dask.layout.coarse_init import coarse_scale, scale_coarse_init
from nomad_dask.partition.clustering import load_partition
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.partition.start_positions import MAX_DISTANCE
from nomad_dask.planning.host_memory import start_cache_bytes
from nomad_dask.planning.planner import coarse_weight
from nomad_dask.planning.run_context import RunContext

# Jitter in standard deviations, so that identical rows do not start at the same point.
_JITTER = 1e-4


def initial_positions(run: RunContext, shard: int, backend: Backend) -> np.ndarray:
    """Return the initial positions (n_rows, dim) float32 of a shard's rows."""
    rng = np.random.default_rng([run.params.random_state, 2, shard])
    if run.plan.coarse_rows:
        return _init_from_coarse_map(run, shard, backend, rng)
    start = np.load(run.file(shard_file(shard, "start")))
    if run.params.has_given_init:
        return np.asarray(start + rng.standard_normal(start.shape) * _JITTER, np.float32)
    if run.params.init == "random":
        return np.asarray(rng.standard_normal(start.shape) * run.params.init_std, np.float32)
    return scale_init(start, load_partition(run).start.std, run.params.init_std, rng)


def scale_init(coordinates: np.ndarray, std: float, init_std: float, rng: np.random.Generator) -> np.ndarray:
    """Return initial positions (n_rows, dim) float32 of a given size.

    Parameters
    ----------
    coordinates : ndarray (n_rows, dim)
    std : float
        Standard deviation of the coordinates of all rows along the axis on which it is largest.
    init_std : float
        Standard deviation of the initial positions on that axis.
    rng : numpy.random.Generator
    """
    scaled = coordinates.astype(np.float64) / max(std, 1e-30) if std > 0 else np.zeros(coordinates.shape)
    lengths = np.sqrt((scaled**2).sum(axis=1))
    scaled *= np.minimum(1, MAX_DISTANCE / np.maximum(lengths, 1e-30))[:, None]
    scaled += rng.standard_normal(scaled.shape) * _JITTER
    return np.asarray(scaled * init_std, np.float32)


def find_anchors(rows: np.ndarray, coarse_rows: np.ndarray, coarse_positions: np.ndarray, n_rows: int) -> Anchors:
    """Return the rows of a shard that are in the coarse map, and their positions there.

    Parameters
    ----------
    rows : ndarray of int64 (n_shard_rows,)
        Numbers in the input of the rows of the shard.
    coarse_rows : ndarray of int64 (n_coarse_rows,)
        Numbers in the input of the rows of the coarse map, ascending.
    coarse_positions : ndarray of float32 (n_coarse_rows, dim)
    n_rows : int
        Rows of the input.
    """
    in_coarse_map = np.zeros(n_rows, bool)
    in_coarse_map[coarse_rows] = True
    anchors = np.flatnonzero(np.take(in_coarse_map, rows))
    numbers = rows[anchors]
    order = np.argsort(numbers)  # ascending ones are found several times as fast
    positions = np.empty((len(anchors), coarse_positions.shape[1]), np.float32)
    positions[order] = coarse_positions[np.searchsorted(coarse_rows, numbers[order])]
    return Anchors(anchors, positions)


def _init_from_coarse_map(run: RunContext, shard: int, backend: Backend, rng: np.random.Generator) -> np.ndarray:
    """Interpolate the initial positions of a shard's rows between its rows in the coarse map."""
    n_rows = run.plan.n_rows
    rows = np.load(run.file(shard_file(shard, "rows")))
    coarse_positions = np.load(run.file("coarse/positions.npy"))
    anchors = find_anchors(rows, np.load(run.file("coarse/rows.npy")), coarse_positions, n_rows)
    positions = np.zeros((len(rows), coarse_positions.shape[1]), np.float32)
    if len(anchors.rows):  # else the shard is small, and starts in the middle of the map
        positions = backend.interpolate(
            ShardVectors([(run.file(shard_file(shard, "vectors")), 0, len(rows))], run.params.metric),
            np.load(run.file(shard_file(shard, "cell_offsets"))),
            np.load(run.file(shard_file(shard, "centroids"))),
            anchors,
            start_cache_bytes(run.plan),
            report_progress,
        )
    weight = coarse_weight(n_rows, run.params)
    scale_coarse_init(positions, coarse_scale(coarse_positions, n_rows, run.params.init_std, weight), rng)
    return positions
