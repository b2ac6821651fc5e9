"""The neighbor lists of a model, by the row numbers of its input."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.partition.shard_files import shard_file

_ROWS_AT_ONCE = 1 << 18


def neighbors_of_rows(arrays: ModelArrays, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` nearest stored neighbors of every row, in input order.

    Returns
    -------
    distances : ndarray of float32 (n_rows, k)
        Ascending; inf where there are fewer neighbors.
    indices : ndarray of int64 (n_rows, k)
        Row numbers of the input; -1 where there are fewer neighbors.
    """
    # `NO_ROW` is clipped to the last entry.
    input_rows = np.append(arrays.input_rows(), -1)
    n_rows = len(input_rows) - 1
    distances, indices = np.empty((n_rows, k), np.float32), np.empty((n_rows, k), np.int64)
    for shard in range(arrays.n_shards):
        rows = arrays.open(shard_file(shard, "rows"))
        neighbors, of_neighbors = arrays.lists(shard)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            ids = neighbors[part, :k]
            distances[rows[part]] = np.where(ids == NO_ROW, np.inf, of_neighbors[part, :k])
            indices[rows[part]] = np.take(input_rows, ids, mode="clip")
    return distances, indices
