"""Rows to shards: every block is written out sorted by cell, then each shard merges its part of all blocks.

This is an external sort. A block's files and a shard's files are written whole or not at all, by tasks that
can run again anywhere, and no task holds more than one block or one bucket of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.choose import backend_of_worker
from nomad_dask.cluster import Cluster, report, worker_threads
from nomad_dask.partition import cells as cells_module
from nomad_dask.partition.cells import working_rows
from nomad_dask.partition.sample import working_dtype
from nomad_dask.plan import Run
from nomad_dask.workspace import Artifact, Workspace, whole_file

# A cell of more than this many mean sizes is cut in pieces, by its own widest axis.
_HUGE = 4
SHARD_FILES = ("vectors", "rows", "start", "cell_offsets", "centroids")
_BLOCK_FILES = ("vectors", "rows", "start", "cells")


def write_blocks(run: Run, cluster: Cluster, advanced: Callable[[int, int], None]) -> None:
    """Assign, project and sort the rows of every block: ``exchange/block-*.npy``."""
    blocks = run.source.blocks(run.plan.block_rows)
    cluster.run(_write_block, [(run, number, a, b) for number, (a, b) in enumerate(blocks)], advanced)


def _block_file(number: int, what: str) -> str:
    return f"exchange/block-{number:06d}.{what}.npy"


def shard_file(shard: int, what: str) -> str:
    """Return the name of a shard's artifact."""
    return f"shards/{shard:04d}.{what}.npy"


def _write_block(run: Run, number: int, start: int, stop: int) -> None:
    partition = cells_module.load(run)
    block = run.source.read(start, stop)
    with backend_of_worker(run.device, worker_threads()) as backend:
        coordinates = backend.project(working_rows(block, run.params.metric), partition.axes)
        labels = partition.ranks[backend.assign(coordinates, partition.cells)]
    order = np.argsort(labels, kind="stable")
    arrays = (
        block[order].astype(working_dtype(block.dtype), copy=False),
        (start + order).astype(np.int64),
        coordinates[order, : run.params.n_components],
        labels[order],
    )
    for what, array in zip(_BLOCK_FILES, arrays, strict=True):
        with (
            whole_file(run.file(_block_file(number, what)), durable=False) as partial,
            partial.open("wb") as out,
        ):
            np.save(out, array, allow_pickle=False)
    report(stop - start)


def merge_shard(run: Run, shard: int) -> list[Artifact]:
    """Put the rows of one shard together in the order of their cells.

    Makes under ``shards/``: ``vectors`` (n, n_dims), ``rows`` (n,) int64 row numbers of the source, ``start``
    (n, dim) coordinates along the leading axes, ``cell_offsets`` (cells + 1,), ``centroids`` (cells, n_dims).
    """
    partition = cells_module.load(run)
    plan = run.plan
    n_blocks = len(run.source.blocks(plan.block_rows))
    first, last = partition.shard_edges[shard], partition.shard_edges[shard + 1]
    labels = [np.load(run.file(_block_file(b, "cells")), mmap_mode="r") for b in range(n_blocks)]
    # edges[b, c]: where cell c begins in block b
    edges = np.stack([np.searchsorted(block, np.arange(first, last + 1)) for block in labels])
    counts = np.diff(edges, axis=1).sum(axis=0)
    n = int(counts.sum())
    dtype = working_dtype(run.source.dtype)
    limit = max(2, _HUGE * plan.n_rows // plan.n_cells)
    rows, starts, sizes, centroids = [], [], [], []
    # A single sorted run is its own merge: it is moved, not written again.
    alone = n_blocks == 1 and plan.n_shards == 1 and counts.max() <= limit
    workspace = Workspace(run.workspace)
    with whole_file(run.file(shard_file(shard, "vectors")), durable=False) as partial:
        if alone:
            run.file(_block_file(0, "vectors")).rename(partial)
        else:
            _write_header(partial, (n, plan.n_dims), dtype)
        for a, b in _buckets(counts, plan.block_rows):
            parts = {
                what: np.concatenate(
                    [
                        _read_rows(
                            partial if alone and what == "vectors" else run.file(_block_file(block, what)),
                            edges[block, a],
                            edges[block, b],
                        )
                        for block in range(n_blocks)
                    ]
                )
                for what in _BLOCK_FILES
            }
            order = np.argsort(parts["cells"], kind="stable")
            order, bucket_sizes = _cut_huge(parts["vectors"], order, counts[a:b], limit, run.params.metric)
            vectors = parts["vectors"]
            if not alone:
                vectors = vectors[order]
                with partial.open("ab") as out:
                    vectors.tofile(out)
            rows.append(parts["rows"][order])
            starts.append(parts["start"][order])
            sizes.append(bucket_sizes)
            centroids.append(_means(vectors, bucket_sizes, run.params.metric))
            report(sum(len(r) for r in rows))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    arrays = (np.concatenate(rows), np.concatenate(starts), offsets, np.concatenate(centroids))
    made = [workspace.describe(shard_file(shard, "vectors"))]
    for what, array in zip(SHARD_FILES[1:], arrays, strict=True):
        made.append(workspace.save(shard_file(shard, what), array))
    return made


def _write_header(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Begin a ``.npy`` file whose rows are appended."""
    with path.open("wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)


def _read_rows(path: Path, start: int, stop: int) -> np.ndarray:
    """Read a range of rows by a plain read: mapped pages would count as the worker's memory."""
    header = np.load(path, mmap_mode="r")
    width = int(np.prod(header.shape[1:]))
    flat = np.fromfile(
        path,
        header.dtype,
        count=(stop - start) * width,
        offset=header.offset + int(start) * width * header.dtype.itemsize,
    )
    return flat.reshape(-1, *header.shape[1:])


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


def _cut_huge(
    vectors: np.ndarray, order: np.ndarray, counts: np.ndarray, limit: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Drop empty cells and cut those of more than `limit` rows into pieces; return rows' order and cell sizes.

    Pieces are halves along the cell's widest direction, again and again. Rows that are all alike are cut
    too: any of them is as near as any other.
    """
    pieces = []
    for cell in np.split(order, np.cumsum(counts)[:-1]):
        work = [cell] if len(cell) else []
        while work:
            piece = work.pop()
            if len(piece) <= limit:
                pieces.append(piece)
                continue
            rows = working_rows(vectors[piece], metric)
            away = rows[np.abs(rows - rows.mean(axis=0)).sum(axis=1).argmax()] - rows.mean(axis=0)
            ranked = piece[np.argsort(rows @ away, kind="stable")]
            work += [ranked[len(ranked) // 2 :], ranked[: len(ranked) // 2]]
    return np.concatenate(pieces) if pieces else order, np.array([len(p) for p in pieces], np.int64)


def _means(vectors: np.ndarray, sizes: np.ndarray, metric: str) -> np.ndarray:
    """Return the means (cells, n_dims) float32 of rows sorted by cell."""
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(working_rows(vectors, metric), starts, axis=0)
    return np.asarray(sums / sizes[:, None], np.float32)


def source_rows(run: Run, shard: int) -> Any:
    """Return the row numbers (n,) int64 of a shard's rows in the source."""
    return np.load(run.file(shard_file(shard, "rows")))
