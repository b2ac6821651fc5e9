"""Neighbor lists that the user gives, of the rows of a shard, in place of those of the search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nomad_dask.backends.data import TAIL_STRIDE, ListLengths
from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.cluster import report_progress
from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.neighbors.list_files import ListChunk, count_from
from nomad_dask.partition.shard_files import GIVEN_ARRAYS, shard_file
from nomad_dask.planning.plan import GIVEN_CHUNK_ROWS
from nomad_dask.planning.run_context import RunContext


def read_given_lists(run: RunContext, catalog: CellCatalog, shard: int) -> Iterator[ListChunk]:
    """Yield the given lists of a shard's rows in chunks; distances are those of the metric, as they are given."""
    n_shard_rows, n_all_rows = int(catalog.shard_rows()[shard]), int(catalog.counts.sum())
    first = int(catalog.shard_rows()[:shard].sum())
    numbers = numbers_of_input_rows(run, n_all_rows)
    files = [RowFile.open(run.file(shard_file(shard, array))) for array in GIVEN_ARRAYS]
    lengths = ListLengths(files[0].row_shape[0] - TAIL_STRIDE * run.plan.given_tail, run.plan.given_tail)
    for start in range(0, max(n_shard_rows, 1), GIVEN_CHUNK_ROWS):
        stop = min(start + GIVEN_CHUNK_ROWS, n_shard_rows)
        ids, distances = (file.read(start, stop) for file in files)
        # `NO_ROW` is clipped to the last entry.
        counted = count_from(np.take(numbers, ids, mode="clip"), first, n_all_rows)
        if not run.plan.searches_across_shards:
            counted, distances = _within(counted, distances, n_shard_rows)
        yield ListChunk(counted[:, : lengths.k], lengths.tail_of(counted), distances[:, : lengths.k])
        report_progress(stop)


def _within(ids: np.ndarray, distances: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lists without ids from `n_rows` on; those that are left move up."""
    order = np.argsort(ids >= n_rows, axis=1, kind="stable")
    ids, distances = (np.take_along_axis(array, order, axis=1) for array in (ids, distances))
    is_outside = ids >= n_rows
    return np.where(is_outside, NO_ROW, ids), np.where(is_outside, np.float32(np.inf), distances)


def numbers_of_input_rows(run: RunContext, n_rows: int) -> np.ndarray:
    """Return the number uint32 through all shards of each row of the input, and `NO_ROW` at the end."""
    numbers, first = np.full(n_rows + 1, NO_ROW, np.uint32), 0
    for shard in range(run.plan.n_shards):
        rows = np.load(run.file(shard_file(shard, "rows")), mmap_mode="r")
        for start in range(0, len(rows), GIVEN_CHUNK_ROWS):
            part = rows[start : start + GIVEN_CHUNK_ROWS]
            numbers[part] = np.arange(first + start, first + start + len(part), dtype=np.uint32)
        first += len(rows)
    return numbers
