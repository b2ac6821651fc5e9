"""Distances from the sampled rows to their neighbors and triplets, in the map and in the data, in bounded memory.

The sampled rows are held in memory. All other rows are read in blocks, so memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.row_reader import normalized
from nomad_dask.errors import ResourceError
from nomad_dask.metrics.brute_force import QUERIES_AT_ONCE, StreamingDistances, StreamingKNN, pair_distances
from nomad_dask.metrics.sample import Sample
from nomad_dask.sources.base import Source
from nomad_dask.utils.threads import Threads, thread_pool

_MAX_BLOCK_ROWS = 16_384
_MIN_BLOCK_ROWS = 64


@dataclass(frozen=True)
class VectorReader:
    """Reads the vectors of a source in blocks, as floats whose Euclidean distances order them as the metric does.

    Attributes
    ----------
    source : Source
    metric : {'euclidean', 'cosine'}
    block_rows : int
        Rows read at once.
    on_progress : callable or None
        Called with the number of rows read, after every block of `measure`.
    """

    source: Source
    metric: str
    block_rows: int
    on_progress: Callable[[int], None] | None

    def comparable(self, block: np.ndarray) -> np.ndarray:
        """Convert a block to comparable floats, by exact casts only."""
        if self.metric == "cosine":
            return normalized(block.astype(np.float64))
        return block.astype(np.result_type(block.dtype, np.float32), copy=False)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Read the given rows, ascending, as float64 ``(rows.size, n_dims)``; other blocks are skipped."""
        gathered = np.empty((rows.size, self.source.n_dims), np.float64)
        for start, stop in self.source.blocks(self.block_rows):
            a, b = np.searchsorted(rows, [start, stop])
            if a < b:
                gathered[a:b] = self.comparable(self.source.read(start, stop)[rows[a:b] - start])
        return gathered


@dataclass(frozen=True)
class Measurements:
    """What scores are computed from; all distances are squared.

    Attributes
    ----------
    map_neighbors : ndarray of int64 (n_queries, k_map)
        Row numbers of the nearest neighbors in the map, in order of distance.
    neighbor_distances : ndarray of float64 (n_queries, k_map)
        Distances in the data to `map_neighbors`.
    nearest_distances : ndarray of float64 (n_queries, k_data)
        Distances to the nearest rows in the data, ascending.
    triplets_agree : ndarray of float64 (n_queries,)
        Share of the query's triplets whose nearer row is the same in the map and in the data.
    """

    map_neighbors: np.ndarray
    neighbor_distances: np.ndarray
    nearest_distances: np.ndarray
    triplets_agree: np.ndarray


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fit_block_rows(source: Source, n_queries: int, max_bytes: int, n_cores: int) -> int:
    """Return how many rows fit in a block beside the queries.

    Raises
    ------
    ResourceError
        `max_bytes` is too small.
    """
    query_bytes = n_queries * source.n_dims * 24  # in float64 and float32, and temporary copies
    row_bytes = source.n_dims * (source.dtype.itemsize + 24) + n_cores * QUERIES_AT_ONCE * 6
    rows = (max_bytes - query_bytes) // row_bytes
    if rows < _MIN_BLOCK_ROWS:
        raise ResourceError(
            f"max_bytes={max_bytes:,} cannot hold {n_queries:,} queries of {source.n_dims} dimensions and a "
            f"block: give fewer queries, or at least {query_bytes + _MIN_BLOCK_ROWS * row_bytes:,} bytes."
        )
    return int(min(rows, _MAX_BLOCK_ROWS))


def measure(reader: VectorReader, positions: np.ndarray, sample: Sample, k_map: int, k_data: int) -> Measurements:
    """Measure a sample; the source is read twice.

    Parameters
    ----------
    reader : VectorReader
    positions : ndarray (n_rows, n_components)
    sample : Sample
    k_map, k_data : int
        Number of nearest neighbors to find in the map and in the data.
    """
    left, right = sample.pairs[:, :, 0], sample.pairs[:, :, 1]
    with thread_pool(count_cores()) as pool:
        map_neighbors = _find_map_neighbors(positions, sample.queries, k_map, reader.block_rows, pool)
        vectors = reader.gather(sample.queries)
        nearest = StreamingKNN(vectors, sample.queries, k_data)
        distances = StreamingDistances(vectors, np.hstack([map_neighbors, left, right]))
        _stream(reader, sample.mapped, nearest, distances, pool)
    to_neighbors, to_left, to_right = np.split(distances.distances, [k_map, k_map + left.shape[1]], axis=1)
    left_in_map = _map_distances(positions, sample.queries, left)
    nearer_in_map = left_in_map < _map_distances(positions, sample.queries, right)
    agree = ((to_left < to_right) == nearer_in_map).mean(axis=1)
    return Measurements(map_neighbors, to_neighbors, nearest.distances, agree)


def _find_map_neighbors(
    positions: np.ndarray, queries: np.ndarray, k: int, block_rows: int, pool: Threads
) -> np.ndarray:
    """Return the row numbers of the `k` nearest neighbors of each query in the map."""
    nearest = StreamingKNN(positions[queries].astype(np.float64), queries, k)
    for start in range(0, len(positions), block_rows):
        rows = positions[start : start + block_rows]
        mapped = np.flatnonzero(np.isfinite(rows).all(axis=1))
        nearest.update(rows[mapped], start + mapped, pool)
    return nearest.ids


def _stream(
    reader: VectorReader, mapped: np.ndarray, nearest: StreamingKNN, distances: StreamingDistances, pool: Threads
) -> None:
    """Read all rows once, and compare them with the queries."""
    is_mapped = np.zeros(reader.source.n_rows, bool)
    is_mapped[mapped] = True
    for start, block in reader.source.iterate(reader.block_rows):
        rows = reader.comparable(block)
        distances.update(rows, start, pool)
        in_block = np.flatnonzero(is_mapped[start : start + len(rows)])
        nearest.update(rows if in_block.size == len(rows) else rows[in_block], start + in_block, pool)
        if reader.on_progress is not None:
            reader.on_progress(start + len(rows))


def _map_distances(positions: np.ndarray, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the squared distances in the map from each query to its others, shaped as `others`."""
    own = positions[queries].astype(np.float64)
    query = np.repeat(np.arange(queries.size), others.shape[1])
    return pair_distances(own, query, positions, others.ravel()).reshape(others.shape)
