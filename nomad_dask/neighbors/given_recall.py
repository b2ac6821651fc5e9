"""The recall of neighbor lists that the user gives: a sample of rows is compared with all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.data import NewRows, StoredRows
from nomad_dask.backends.row_reader import RowFile, ShardVectors
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.cluster import Cluster, report_progress, worker_backend, worker_threads
from nomad_dask.neighbors.cell_catalog import load_cell_catalog
from nomad_dask.neighbors.given_lists import numbers_of_input_rows
from nomad_dask.partition.shard_files import GIVEN_ARRAYS, shard_file
from nomad_dask.planning.run_context import RunContext

_SAMPLE_ROWS = 200
# The distances are summed in different orders.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class GivenSample:
    """Some rows and their given neighbors, numbered through all shards.

    Attributes
    ----------
    rows : ndarray of int64 (n,)
        Ascending.
    neighbors : ndarray of uint32 (n, k)
        `NO_ROW` where there is none.
    """

    rows: np.ndarray
    neighbors: np.ndarray


def measure_given_lists(run: RunContext, cluster: Cluster) -> float:
    """Return the share of the true neighbors of a sample of rows that are in the given lists.

    Rows are compared with all others, also where those of other shards do not attract them.
    """
    (sample,) = cluster.run(_draw_sample, [(run,)])
    if not sample.neighbors.size:
        return 1.0
    found = cluster.run(_compare_with_shard, [(run, shard, sample) for shard in range(run.plan.n_shards)])
    true, given = (np.concatenate(distances, axis=1) for distances in zip(*found, strict=True))
    k = sample.neighbors.shape[1]
    # Each given neighbor is in one shard, and at an infinite distance in all others.
    farthest = np.sort(true, axis=1)[:, k - 1 : k]
    return float((np.sort(given, axis=1)[:, :k] <= farthest * np.float32(1 + _ROUNDING)).mean())


def _draw_sample(run: RunContext) -> GivenSample:
    catalog = load_cell_catalog(run)
    n_rows, k = int(catalog.counts.sum()), min(run.params.n_neighbors, run.plan.n_rows - 1)
    rng = np.random.default_rng([run.params.random_state, 4])
    rows = np.sort(rng.choice(n_rows, min(n_rows, _SAMPLE_ROWS), replace=False, shuffle=False))
    first_rows = np.append(0, np.cumsum(catalog.shard_rows()))
    ends = np.searchsorted(rows, first_rows)
    lists = [
        RowFile.open(run.file(shard_file(shard, GIVEN_ARRAYS[0]))).gather(rows[ends[shard] : ends[shard + 1]] - first)
        for shard, first in enumerate(first_rows[:-1])
        if ends[shard] < ends[shard + 1]
    ]
    ids = np.concatenate(lists)[:, :k]
    return GivenSample(rows, np.take(numbers_of_input_rows(run, n_rows), ids, mode="clip"))


def _compare_with_shard(run: RunContext, shard: int, sample: GivenSample) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances (n, k) of the rows of a shard that are nearest to those of a sample, and of given ones.

    inf stands for rows of other shards, and where there are fewer rows.
    """
    catalog = load_cell_catalog(run)
    sizes = catalog.shard_rows()
    first, last = int(sizes[:shard].sum()), int(sizes[: shard + 1].sum())
    files = [(run.file(shard_file(s, "vectors")), 0, int(n)) for s, n in enumerate(sizes)]
    queries = ShardVectors(files, run.params.metric).gather(sample.rows)
    k = sample.neighbors.shape[1]
    true, given = (np.full(sample.neighbors.shape, np.inf, np.float32) for _ in range(2))
    if first == last:
        return true, given
    vectors = ShardVectors(files[shard : shard + 1], run.params.metric, run.plan.cache_bytes)
    with worker_backend(run.device, run.shard_threads) as backend:
        vectors.load()
        cells = slice(*catalog.cells_of(shard))
        offsets = np.append(0, np.cumsum(catalog.counts[cells]))
        stored = StoredRows(vectors, offsets, catalog.centroids[cells])
        ids, distances = backend.search_new_rows(
            stored, _all_cells(queries, len(offsets) - 1, worker_threads(run.shard_threads)), k + 1, _report
        )
    distances[ids + first == sample.rows[:, None]] = np.inf
    true[:] = np.sort(distances, axis=1)[:, :k]
    row, rank = np.nonzero((sample.neighbors >= first) & (sample.neighbors < last) & (sample.neighbors != NO_ROW))
    if row.size:
        targets, place = np.unique(sample.neighbors[row, rank].astype(np.int64) - first, return_inverse=True)
        differences = queries[row] - vectors.gather(targets)[place]
        given[row, rank] = np.einsum("ij,ij->i", differences, differences)
    return true, given


def _all_cells(queries: np.ndarray, n_cells: int, n_groups: int) -> NewRows:
    """Return rows that are compared with those of all cells, in groups for as many threads."""
    offsets = np.linspace(0, len(queries), min(n_groups, len(queries)) + 1).astype(np.int64)
    probed = np.tile(np.arange(n_cells, dtype=np.int32), (len(offsets) - 1, 1))
    return NewRows(queries, offsets, probed)


def _report(n_done: int) -> None:
    """Report nothing done, but stop when the run is stopped."""
    report_progress(0)
