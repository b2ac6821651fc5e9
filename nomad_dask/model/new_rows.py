"""New rows of any input among those of a model: their neighbors, and their positions on the map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from nomad_dask.cluster import Cluster, worker_backend
from nomad_dask.errors import InputError
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.model.placement import place
from nomad_dask.model.search import search_in_parts
from nomad_dask.model.stored_neighbors import numbers_in_input, to_input_rows
from nomad_dask.params import Params
from nomad_dask.pipeline.options import ClusterOptions
from nomad_dask.pipeline.setup import connect_for, must_copy, worker_memory
from nomad_dask.sources.base import Source
from nomad_dask.sources.npy import copy_to_npy
from nomad_dask.storage.tempdir import KeptDirectory
from nomad_dask.utils.memory import parse_bytes

_COPIED_ROWS = 1 << 16


@dataclass(frozen=True)
class PlacedRows:
    """New rows on the map of a model.

    Attributes
    ----------
    positions : ndarray of float32 (n, dim)
    cell_labels : ndarray of int32 (n,)
        Cell of the nearest row of the map.
    distances : ndarray of float32 (n,)
        Distance to it.
    outlier_scores : ndarray of float32 (n,)
        Mean distance to the neighbors, divided by their mean distance to theirs: about 1 for rows like those of the
        map, and the larger the farther a row is from all of them.
    """

    positions: np.ndarray
    cell_labels: np.ndarray
    distances: np.ndarray
    outlier_scores: np.ndarray


def new_neighbors_in_parts(
    arrays: ModelArrays, params: Params, source: Source, k: int, options: ClusterOptions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the nearest rows of a model for consecutive rows of a source, in parts that fit in memory.

    Yields
    ------
    distances : ndarray of float32 (n, k)
        Ascending; inf where there are fewer neighbors.
    indices : ndarray of int64 (n, k)
        Row numbers of the input of the model; -1 where there are fewer neighbors.

    Raises
    ------
    InputError
        The source has another number of dimensions than the model, or a row that cannot be compared.
    """
    numbers = numbers_in_input(arrays)
    with _connect(arrays, source, options) as (cluster, shared):
        for ids, distances in _search(arrays, params, shared, k, cluster, options):
            yield distances, to_input_rows(numbers, ids)


def neighbors_of_new_rows(
    arrays: ModelArrays, params: Params, source: Source, k: int, options: ClusterOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest rows of a model for each row of a source; see `new_neighbors_in_parts`."""
    return _joined(new_neighbors_in_parts(arrays, params, source, k, options))


def place_new_rows(
    arrays: ModelArrays, params: Params, partition_sum: float, source: Source, options: ClusterOptions
) -> PlacedRows:
    """Return the rows of a source on the map of a model; see `new_neighbors_in_parts`."""
    k = min(params.n_neighbors, arrays.n_rows)
    with _connect(arrays, source, options) as (cluster, shared):
        ids, distances = _joined(_search(arrays, params, shared, k, cluster, options))
        job = (arrays, params, partition_sum, ids, distances[:, 0], cluster.device, cluster.host_threads())
        (positions,) = cluster.run(_place, [job])
    return PlacedRows(
        positions, arrays.cell_labels()[ids[:, 0]], distances[:, 0], outlier_scores(arrays, ids, distances)
    )


def outlier_scores(arrays: ModelArrays, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the outlier scores (n,) float32 of rows with these neighbors; see `PlacedRows`.

    The local outlier factor (Breunig et al. 2000) with mean distances in place of reachability distances.
    """
    of_stored = np.concatenate([_mean_distances(arrays.lists(shard)[1]) for shard in range(arrays.n_shards)])
    found = ids >= 0
    expected = np.where(found, of_stored[ids], 0).sum(axis=1, dtype=np.float64) / found.sum(axis=1)
    mean = np.where(found, distances, 0).sum(axis=1, dtype=np.float64) / found.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = mean / expected
    # A row among equal ones is none, and one apart from rows that are all equal is.
    return np.where(expected > 0, scores, np.where(mean > 0, np.inf, 1)).astype(np.float32)


def _mean_distances(distances: np.ndarray) -> np.ndarray:
    """Return the mean (n,) of ascending distances (n, k), of which some may be inf; 0 for none."""
    finite = np.where(np.isfinite(distances), distances, 0)
    means: np.ndarray = finite.sum(axis=1, dtype=np.float64) / np.maximum(np.isfinite(distances).sum(axis=1), 1)
    return means


def _place(
    arrays: ModelArrays,
    params: Params,
    partition_sum: float,
    ids: np.ndarray,
    distances: np.ndarray,
    device: str,
    n_threads: int,
) -> np.ndarray:
    with worker_backend(device, n_threads) as backend:
        return place(backend, arrays.positions(), ids, distances == 0, partition_sum, params)


def _search(
    arrays: ModelArrays, params: Params, source: Source, k: int, cluster: Cluster, options: ClusterOptions
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    memory_bytes = worker_memory(cluster, parse_bytes(options.memory_limit))
    return search_in_parts(arrays, params.metric, source, k, cluster, memory_bytes)


def _joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of all parts, each joined."""
    first, second = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return first, second


@contextmanager
def _connect(arrays: ModelArrays, source: Source, options: ClusterOptions) -> Iterator[tuple[Cluster, Source]]:
    """Yield a cluster, and a source that all of its workers can open: if necessary, a temporary copy."""
    n_dims = arrays.catalog.centroids.shape[1]
    if source.n_dims != n_dims:
        raise InputError(
            f"{source.name} has {source.n_dims} dimensions, the rows of the model have {n_dims}: give vectors of the "
            "same kind as those of the map."
        )
    with connect_for(source, options) as cluster:
        if not must_copy(source, cluster):
            yield cluster, source
            return
        directory = KeptDirectory("input.npy")
        try:
            yield cluster, copy_to_npy(source, directory.path, _COPIED_ROWS)
        finally:
            directory.drop()
