"""First half of the shuffle: assign the rows of every block to cells, and write each block as a run sorted by cell.

The shuffle is an external sort. Files are written atomically, by tasks that can be repeated on any worker, and no
task holds more than one block, or one group of cells, in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.cluster import Cluster, report_progress, worker_backend
from nomad_dask.partition.clustering import Partition, load_partition
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.partition.sampling import working_dtype
from nomad_dask.partition.shard_files import BLOCK_FILES, GIVEN_ARRAYS, block_file, given_file
from nomad_dask.partition.start_positions import GIVEN_POSITIONS
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import describe_rows
from nomad_dask.sources.retry import with_retries
from nomad_dask.storage.atomic import write_temporary


def write_runs(run: RunContext, cluster: Cluster, on_progress: Callable[[int, int], None]) -> None:
    """Read the source once, and write every block as a sorted run: ``runs/block-*.npy``."""
    jobs, first_block = [], 0
    for blocks in run.source.read_groups(run.plan.block_rows):
        part = replace(run, source=run.source.slice_rows(blocks[0][0], blocks[-1][1]))
        jobs.append((part, first_block, blocks))
        first_block += len(blocks)
    cluster.run(_write_blocks, jobs, on_progress)


def _write_blocks(run: RunContext, first_block: int, blocks: list[tuple[int, int]]) -> None:
    """Write consecutive blocks, given as ranges of rows."""
    partition = load_partition(run)
    for block, (start, stop) in enumerate(blocks, first_block):
        arrays = _join_sorted(retry_in_halves(partial(_sort_rows, run, partition), start, stop))
        names = (*BLOCK_FILES, *GIVEN_ARRAYS) if run.params.has_given_neighbors else BLOCK_FILES
        for name, array in zip(names, arrays, strict=True):
            write_temporary(run.file(block_file(block, name)), array)
        report_progress(stop - blocks[0][0])


def _join_sorted(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Merge parts of a block, each sorted by cell."""
    if len(parts) == 1:
        return parts[0]
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    order = np.argsort(joined[BLOCK_FILES.index("cells")], kind="stable")
    return tuple(array[order] for array in joined)


def _sort_rows(run: RunContext, partition: Partition, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Return the arrays of rows `start` to `stop` of the source, sorted by cell: `BLOCK_FILES`, then given lists."""
    with worker_backend(run.device) as backend:
        block = with_retries(partial(backend.read, run.source, start, stop), describe_rows(run.source, start, stop))
        coordinates = backend.project(backend.to_float32(block, run.params.metric), partition.axes)
        assigned = backend.assign(coordinates, partition.cells)
        cells = partition.ranks[assigned]
        order = np.argsort(cells, kind="stable")
        principal = backend.gather_to_host(coordinates[:, : run.params.n_components], order)
        return (
            backend.gather_to_host(block.astype(working_dtype(block.dtype), copy=False), order),
            (start + order).astype(np.int64),
            _start_of_rows(run, partition, start + order, assigned[order], principal),
            cells[order],
            *_given_lists(run, start, stop, order),
        )


def _given_lists(run: RunContext, start: int, stop: int, order: np.ndarray) -> list[np.ndarray]:
    """Return the `GIVEN_ARRAYS` of rows `start` to `stop` of the source in some order; none if they are not given."""
    if not run.params.has_given_neighbors:
        return []
    return [RowFile.open(run.file(given_file(name))).read(start, stop)[order] for name in GIVEN_ARRAYS]


def _start_of_rows(
    run: RunContext, partition: Partition, rows: np.ndarray, cells: np.ndarray, principal: np.ndarray
) -> np.ndarray:
    """Return the unscaled start (n, dim) float32 of rows of the source, from their cells and leading coordinates."""
    if run.params.has_given_init:
        given: np.ndarray = np.load(run.file(GIVEN_POSITIONS), mmap_mode="r")[rows]
        return given
    shifted: np.ndarray = principal + partition.start.shifts[cells]
    return shifted
