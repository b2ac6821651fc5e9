"""The neighbor lists of a model, by the row numbers of its input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.neighbors.kept_lists import KEPT_LISTS, kept_list_file
from nomad_dask.partition.shard_files import shard_file

ENTRY_BYTES = 12
"""Bytes of a neighbor and its distance, as they are returned."""
_MAX_CHUNK_BYTES = 64 << 20


def neighbors_of_rows(arrays: ModelArrays, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` nearest stored neighbors of every row, in input order.

    Returns
    -------
    distances : ndarray of float32 (n_rows, k)
        Ascending; inf where there are fewer neighbors.
    indices : ndarray of int64 (n_rows, k)
        Row numbers of the input; -1 where there are fewer neighbors.
    """
    return _neighbors_of_range(arrays, k, numbers_in_input(arrays), (0, arrays.n_rows), _MAX_CHUNK_BYTES)


def stored_neighbors_in_parts(
    arrays: ModelArrays, k: int, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the neighbors of consecutive rows, in input order; see `neighbors_of_rows`.

    The lists are stored in the order of the cells. All of them are read for every part, as the rows of a part are
    anywhere among them.

    Parameters
    ----------
    arrays : ModelArrays
    k : int
    memory_bytes : int
        Memory that a part and the lists that are read for it may take, beside 4 bytes for every row of the model.
    """
    numbers = numbers_in_input(arrays)
    part_rows = max(1, memory_bytes // (2 * ENTRY_BYTES * k)) if k else arrays.n_rows
    for start in range(0, arrays.n_rows, part_rows):
        rows = start, min(start + part_rows, arrays.n_rows)
        yield _neighbors_of_range(arrays, k, numbers, rows, min(memory_bytes // 4, _MAX_CHUNK_BYTES))


def numbers_in_input(arrays: ModelArrays) -> np.ndarray:
    """Return the row number uint32 of the input of each row of the model, and `NO_ROW` at the end."""
    numbers, first = np.full(arrays.n_rows + 1, NO_ROW, np.uint32), 0
    for shard in range(arrays.n_shards):
        rows = arrays.open(shard_file(shard, "rows"))
        numbers[first : first + len(rows)] = rows
        first += len(rows)
    return numbers


def to_input_rows(numbers: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the row numbers int64 of the input for rows of the model; -1 for -1 and `NO_ROW`.

    Parameters
    ----------
    numbers : ndarray of uint32 (n_rows + 1,)
        Of `numbers_in_input`.
    ids : ndarray of int64 or uint32
    """
    found = numbers[np.minimum(ids.astype(np.uint32, copy=False), np.uint32(len(numbers) - 1))]
    return np.where(found == NO_ROW, -1, found.astype(np.int64))


def _neighbors_of_range(
    arrays: ModelArrays, k: int, numbers: np.ndarray, of_rows: tuple[int, int], chunk_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbors of a range of rows of the input; `numbers` are those of `numbers_in_input`."""
    start, stop = of_rows
    distances, indices = np.empty((stop - start, k), np.float32), np.empty((stop - start, k), np.int64)
    first = 0
    for shard in range(arrays.n_shards):
        ids_file, distances_file = (RowFile.open(arrays.file(kept_list_file(shard, name))) for name in KEPT_LISTS)
        n_rows = len(arrays.open(shard_file(shard, "rows")))
        step = max(1, chunk_bytes // (8 * max(1, ids_file.row_shape[0])))
        for a in range(0, n_rows, step):
            b = min(a + step, n_rows)
            rows = numbers[first + a : first + b]
            wanted = np.flatnonzero((rows >= start) & (rows < stop))
            if wanted.size:
                places = rows[wanted] - np.uint32(start)
                ids = ids_file.read(a, b)[wanted, :k]
                indices[places] = to_input_rows(numbers, ids)
                distances[places] = np.where(ids == NO_ROW, np.inf, distances_file.read(a, b)[wanted, :k])
        first += n_rows
    return distances, indices
