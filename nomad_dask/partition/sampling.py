"""The sample: random rows of the source, in row order, from which axes and cells are made."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.select import backend_of_worker
from nomad_dask.cluster import Cluster, report_progress, worker_threads
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import describe_rows
from nomad_dask.sources.retry import with_retries
from nomad_dask.storage.atomic import atomic_write, write_npy_header
from nomad_dask.storage.disk_full import translate_disk_full

_TAKE_BYTES = 64 << 20


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the element type in which vectors are kept: as they come, but nothing wider than float32."""
    return dtype if dtype.itemsize < 4 or dtype == np.float32 else np.dtype(np.float32)


def draw_sample(run: RunContext, cluster: Cluster, advanced: Any) -> list[str]:
    """Read the source once: check every row, and write the sampled ones.

    Makes ``sample/vectors.npy`` (m, n_dims) and ``sample/rows.npy`` (m,) int64 row numbers, ascending.
    """
    plan = run.plan
    rng = np.random.default_rng([run.params.random_state, 1])
    rows = np.sort(rng.choice(plan.n_rows, plan.sample_rows, replace=False, shuffle=False)).astype(np.int64)
    stretches = run.source.read_groups(plan.block_rows)
    edges = np.searchsorted(rows, [blocks[0][0] for blocks in stretches] + [plan.n_rows])
    with atomic_write(run.file("sample/vectors.npy")) as unfinished:
        shape = (len(rows), plan.n_dims)
        np.lib.format.open_memmap(unfinished, "w+", working_dtype(run.source.dtype), shape).flush()
        if hasattr(os, "posix_fallocate"):  # or a disk that fills up later ends the process that writes to the map
            size = unfinished.stat().st_size
            with translate_disk_full(run.file("sample/vectors.npy"), size), unfinished.open("r+b") as f:
                os.posix_fallocate(f.fileno(), 0, size)
        jobs = []
        for i, blocks in enumerate(stretches):
            part = replace(run, source=run.source.slice_rows(blocks[0][0], blocks[-1][1]))
            jobs.append((part, unfinished, blocks, rows[edges[i] : edges[i + 1]], int(edges[i])))
        cluster.run(_take, jobs, advanced)
    with atomic_write(run.file("sample/rows.npy")) as unfinished, unfinished.open("wb") as f:
        np.save(f, rows)
    return ["sample/vectors.npy", "sample/rows.npy"]


def _take(run: RunContext, target: Path, blocks: list[tuple[int, int]], rows: np.ndarray, place: int) -> None:
    """Check the rows of consecutive blocks and write the sampled ones to their place."""
    out = np.lib.format.open_memmap(target, "r+")
    for start, stop in blocks:
        for (taken,) in retry_in_halves(partial(_sampled, run, rows), start, stop):
            out[place : place + len(taken)] = taken
            place += len(taken)
        report_progress(stop - blocks[0][0])
    out.flush()


def _sampled(run: RunContext, rows: np.ndarray, start: int, stop: int) -> tuple[np.ndarray]:
    """Read and check rows `start` to `stop`, and return those of them that are in the sample."""
    wanted = rows[slice(*np.searchsorted(rows, (start, stop)))]
    with backend_of_worker(run.device, worker_threads()) as backend:
        block = with_retries(partial(backend.read, run.source, start, stop), describe_rows(run.source, start, stop))
        backend.check_finite(block, start, run.source.name)
        return (backend.gather_to_host(block, wanted - start),)


def take_rows(path: Path, target: Path, rows: np.ndarray) -> None:
    """Write some rows, in ascending order, of a ``.npy`` file to another one, a block at a time."""
    file = RowFile.open(path)
    shape = (len(rows), *file.row_shape)
    step = max(1, _TAKE_BYTES // (file.dtype.itemsize * shape[1]))
    stop = int(rows[-1]) + 1
    with atomic_write(target) as partial, partial.open("wb") as out:
        write_npy_header(out, file.dtype, shape)
        for a in range(0, stop, step):
            b = min(a + step, stop)
            here = rows[np.searchsorted(rows, a) : np.searchsorted(rows, b)]
            file.read(a, b)[here - a].tofile(out)
