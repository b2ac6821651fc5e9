"""Distances from the sampled rows and centroids of groups, in the map and in the data, in bounded memory.

The sampled rows are held in memory. All other rows are read in blocks, so memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.errors import ResourceError
from nomad_dask.metrics.brute_force import QUERIES_AT_ONCE, StreamingDistances, StreamingKNN
from nomad_dask.metrics.centroids import DIMS_AT_ONCE, GroupCentroids
from nomad_dask.metrics.distances import multiply, pair_distances, safe_factor
from nomad_dask.metrics.sample import Sample
from nomad_dask.sources.base import Source
from nomad_dask.sources.validation import check_finite
from nomad_dask.utils.row_norms import unit_rows
from nomad_dask.utils.threads import Threads, thread_pool

_MAX_BLOCK_ROWS = 16_384
_MIN_BLOCK_ROWS = 64


@dataclass(frozen=True)
class VectorReader:
    """Reads the vectors of a source in blocks, as float64 whose Euclidean distances order them as the metric does.

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

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows as comparable float64 ``(stop - start, n_dims)``.

        Raises
        ------
        InputError
            A value is NaN or infinite.
        """
        block = self.source.read(start, stop)
        check_finite(block, start, self.source.name)
        rows = block.astype(np.float64)
        return unit_rows(rows) if self.metric == "cosine" else rows

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Read the given rows, ascending, as `read` does ``(rows.size, n_dims)``; other blocks are skipped."""
        gathered = np.empty((rows.size, self.source.n_dims), np.float64)
        for start, stop in self.source.blocks(self.block_rows):
            a, b = np.searchsorted(rows, [start, stop])
            if a < b:
                gathered[a:b] = self.read(start, stop)[rows[a:b] - start]
        return gathered


@dataclass(frozen=True)
class Measurements:
    """What scores are computed from. Distances in the data have a unit of their own.

    Attributes
    ----------
    map_neighbors : ndarray of int64 (n_queries, k_map)
        Row numbers of the nearest neighbors in the map, in order of distance.
    neighbor_distances : ndarray of float64 (n_queries, k_map)
        Distances in the data to `map_neighbors`.
    nearest_distances : ndarray of float64 (n_queries, k_data)
        Distances to the nearest rows in the data, ascending.
    pair_distances : ndarray of float64 (n_queries, n_pairs, 2)
        Distances in the data to the pairs of the sample.
    map_pair_distances : ndarray of float64 (n_queries, n_pairs, 2)
        Distances in the map to the same rows.
    centroids : ndarray of float64 (n_groups, n_dims)
        Of the groups in the data, relative to some point.
    map_centroids : ndarray of float64 (n_groups, n_components)
        Of the same groups in the map, relative to some point.
    """

    map_neighbors: np.ndarray
    neighbor_distances: np.ndarray
    nearest_distances: np.ndarray
    pair_distances: np.ndarray
    map_pair_distances: np.ndarray
    centroids: np.ndarray
    map_centroids: np.ndarray


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fit_block_rows(source: Source, n_queries: int, n_groups: int, max_bytes: int, n_cores: int) -> int:
    """Return how many rows fit in a block beside the queries and the centroids of at most `n_groups` groups.

    Raises
    ------
    ResourceError
        `max_bytes` is too small.
    """
    query_bytes = n_queries * source.n_dims * 24  # in float64 and float32, and temporary copies
    query_bytes += n_groups * source.n_dims * 16
    row_bytes = source.n_dims * (source.dtype.itemsize + 24) + n_cores * QUERIES_AT_ONCE * 6
    row_bytes += n_groups * 17 + n_cores * (DIMS_AT_ONCE + 2) * 8
    rows = (max_bytes - query_bytes) // row_bytes
    if rows < _MIN_BLOCK_ROWS:
        raise ResourceError(
            f"max_bytes={max_bytes:,} cannot hold {n_queries:,} queries of {source.n_dims} dimensions and a "
            f"block: give fewer queries, or at least {query_bytes + _MIN_BLOCK_ROWS * row_bytes:,} bytes."
        )
    return int(min(rows, _MAX_BLOCK_ROWS))


def measure(
    reader: VectorReader, positions: np.ndarray, sample: Sample, groups: np.ndarray | None, k_map: int, k_data: int
) -> Measurements:
    """Measure a sample; the source is read twice.

    Parameters
    ----------
    reader : VectorReader
    positions : ndarray (n_rows, n_components)
        Finite.
    sample : Sample
    groups : ndarray of int64 (n_rows,) or None
        As for `GroupCentroids`.
    k_map, k_data : int
        Number of nearest neighbors to find in the map and in the data.
    """
    queries, pairs = sample.queries, sample.pairs.reshape(sample.queries.size, -1)
    in_map = safe_factor(positions)
    with thread_pool(count_cores()) as pool:
        map_neighbors = _find_map_neighbors(positions, in_map, queries, k_map, reader.block_rows, pool)
        vectors = reader.gather(queries)
        in_data = safe_factor(vectors)
        vectors = multiply(vectors, in_data)
        nearest = StreamingKNN(vectors, queries, k_data)
        distances = StreamingDistances(vectors, np.hstack([map_neighbors, pairs]))
        centroids = GroupCentroids(groups, vectors, multiply(positions[queries], in_map), pool)
        for start, stop in reader.source.blocks(reader.block_rows):
            rows = multiply(reader.read(start, stop), in_data)
            distances.update(rows, start, pool)
            nearest.update(rows, np.arange(start, stop), pool)
            centroids.update(rows, multiply(positions[start:stop], in_map), start, pool)
            if reader.on_progress is not None:
                reader.on_progress(stop)
    to_neighbors, to_pairs = np.split(distances.distances, [k_map], axis=1)
    in_map_to_pairs = _map_distances(positions, in_map, queries, pairs)
    shape = sample.pairs.shape
    return Measurements(
        map_neighbors,
        to_neighbors,
        nearest.distances,
        to_pairs.reshape(shape),
        in_map_to_pairs.reshape(shape),
        *centroids.means(),
    )


def _find_map_neighbors(
    positions: np.ndarray, factor: float, queries: np.ndarray, k: int, block_rows: int, pool: Threads
) -> np.ndarray:
    """Return the row numbers of the `k` nearest neighbors of each query in the map."""
    nearest = StreamingKNN(multiply(positions[queries], factor), queries, k)
    for start in range(0, len(positions), block_rows):
        rows = multiply(positions[start : start + block_rows], factor)
        nearest.update(rows, np.arange(start, start + len(rows)), pool)
    return nearest.ids


def _map_distances(positions: np.ndarray, factor: float, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances in the map from each query to its others, shaped as `others`."""
    own, rest = (multiply(positions[rows], factor) for rows in (queries, others.ravel()))
    query = np.repeat(np.arange(queries.size), others.shape[1])
    return pair_distances(own, query, rest, np.arange(others.size)).reshape(others.shape)
