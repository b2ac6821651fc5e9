"""Rows to shards: every block is written out sorted by cell, then each shard merges its part of all blocks.

This is an external sort. A block's files and a shard's files are written whole or not at all, by tasks that
can run again anywhere, and no task holds more than one block or one bucket of cells.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.backends.select import backend_of_worker
from nomad_dask.cluster import Cluster, report_progress, worker_threads
from nomad_dask.partition import clustering as cells_module
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.partition.sampling import working_dtype
from nomad_dask.partition.split_cells import split_oversized_cells
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import describe_rows
from nomad_dask.sources.retry import with_retries
from nomad_dask.storage.atomic import atomic_write, write_npy_header, write_temporary
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.workspace import Workspace

# A cell of more than this many mean sizes is cut in pieces, by its own widest axis.
_HUGE = 4
SHARD_FILES = ("vectors", "rows", "start", "cell_offsets", "centroids")
_BLOCK_FILES = ("vectors", "rows", "start", "cells")


def write_runs(run: RunContext, cluster: Cluster, advanced: Callable[[int, int], None]) -> None:
    """Assign, project and sort the rows of every block: ``exchange/block-*.npy``."""
    jobs, number = [], 0
    for blocks in run.source.read_groups(run.plan.block_rows):
        part = replace(run, source=run.source.slice_rows(blocks[0][0], blocks[-1][1]))
        jobs.append((part, number, blocks))
        number += len(blocks)
    cluster.run(_write_stretch, jobs, advanced)


def _block_file(number: int, what: str) -> str:
    return f"exchange/block-{number:06d}.{what}.npy"


def shard_file(shard: int, what: str) -> str:
    """Return the name of a shard's artifact."""
    return f"shards/{shard:04d}.{what}.npy"


def _write_stretch(run: RunContext, number: int, blocks: list[tuple[int, int]]) -> None:
    """Write consecutive blocks, the first of which has this number."""
    partition = cells_module.load_partition(run)
    for i, (start, stop) in enumerate(blocks):
        _write_block(run, partition, number + i, start, stop)
        report_progress(stop - blocks[0][0])


def _write_block(run: RunContext, partition: cells_module.Partition, number: int, start: int, stop: int) -> None:
    parts = retry_in_halves(partial(_sorted_rows, run, partition), start, stop)
    arrays = parts[0]
    if len(parts) > 1:
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        order = np.argsort(joined[-1], kind="stable")
        arrays = tuple(array[order] for array in joined)
    for what, array in zip(_BLOCK_FILES, arrays, strict=True):
        write_temporary(run.file(_block_file(number, what)), array)


def _sorted_rows(run: RunContext, partition: cells_module.Partition, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Return rows of the source sorted by cell, as `_BLOCK_FILES` has them."""
    with backend_of_worker(run.device, worker_threads()) as backend:
        block = with_retries(partial(backend.read, run.source, start, stop), describe_rows(run.source, start, stop))
        coordinates = backend.project(backend.to_float32(block, run.params.metric), partition.axes)
        labels = partition.ranks[backend.assign(coordinates, partition.cells)]
        order = np.argsort(labels, kind="stable")
        return (
            backend.gather_to_host(block.astype(working_dtype(block.dtype), copy=False), order),
            (start + order).astype(np.int64),
            backend.gather_to_host(coordinates[:, : run.params.n_components], order),
            labels[order],
        )


def merge_runs(run: RunContext, shard: int, n_blocks: int) -> list[Artifact]:
    """Put the rows of one shard together in the order of their cells.

    Makes under ``shards/``: ``vectors`` (n, n_dims), ``rows`` (n,) int64 row numbers of the source, ``start``
    (n, dim) coordinates along the leading axes, ``cell_offsets`` (cells + 1,), ``centroids`` (cells, n_dims).
    """
    partition = cells_module.load_partition(run)
    plan = run.plan
    first, last = partition.shard_edges[shard], partition.shard_edges[shard + 1]
    labels = [np.load(run.file(_block_file(b, "cells")), mmap_mode="r") for b in range(n_blocks)]
    # edges[b, c]: where cell c begins in block b
    edges = np.stack([np.searchsorted(block, np.arange(first, last + 1)) for block in labels])
    counts = np.diff(edges, axis=1).sum(axis=0)
    n = int(counts.sum())
    limit = max(2, _HUGE * plan.n_rows // plan.n_cells)
    # A single sorted run is its own merge: it is not written again.
    alone = n_blocks == 1 and plan.n_shards == 1 and counts.max() <= limit
    merged: dict[str, list[np.ndarray]] = {what: [] for what in SHARD_FILES[1:]}
    with atomic_write(run.file(shard_file(shard, "vectors")), durable=False) as unfinished:
        if alone:
            _share(run.file(_block_file(0, "vectors")), unfinished)
        else:
            with unfinished.open("wb") as out:
                write_npy_header(out, working_dtype(run.source.dtype), (n, plan.n_dims))
        for a, b in _buckets(counts, plan.block_rows):
            parts = {
                what: np.concatenate([
                    RowFile.open(
                        unfinished if alone and what == "vectors" else run.file(_block_file(block, what))
                    ).read(edges[block, a], edges[block, b])
                    for block in range(n_blocks)
                ])
                for what in _BLOCK_FILES
            }  # fmt: skip
            order = np.argsort(parts["cells"], kind="stable")
            order, sizes = split_oversized_cells(parts["vectors"], order, counts[a:b], limit, run.params.metric)
            vectors = parts["vectors"]
            if not alone:
                vectors = vectors[order]
                with unfinished.open("ab") as out:
                    vectors.tofile(out)
            merged["rows"].append(parts["rows"][order])
            merged["start"].append(parts["start"][order])
            merged["cell_offsets"].append(sizes)
            merged["centroids"].append(_means(vectors, sizes, run.params.metric))
            report_progress(sum(len(r) for r in merged["rows"]))
    workspace = Workspace(run.workspace)
    made = [workspace.describe(shard_file(shard, "vectors"))]
    for what, pieces in merged.items():
        array = np.concatenate(pieces)
        if what == "cell_offsets":
            array = np.concatenate([[0], np.cumsum(array)]).astype(np.int64)
        made.append(workspace.save(shard_file(shard, what), array))
    return made


def _share(path: Path, other: Path) -> None:
    """Give a file a second name; the first one stays for a task that has to run again."""
    try:
        other.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


def _buckets(counts: np.ndarray, max_rows: int) -> list[tuple[int, int]]:
    """Return ranges of cells of at most `max_rows` rows each (or one cell)."""
    buckets, start, held = [], 0, 0
    for cell, count in enumerate(counts):
        if held and held + count > max_rows:
            buckets.append((start, cell))
            start, held = cell, 0
        held += count
    buckets.append((start, len(counts)))
    return buckets


def _means(vectors: np.ndarray, sizes: np.ndarray, metric: str) -> np.ndarray:
    """Return the means (cells, n_dims) float32 of rows sorted by cell."""
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(to_float32(vectors, metric), starts, axis=0)
    return np.asarray(sums / sizes[:, None], np.float32)
