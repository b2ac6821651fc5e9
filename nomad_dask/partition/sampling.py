"""The sample: random rows of the source, in row order, to which axes and cells are fitted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.value_range import ValueRange
from nomad_dask.cluster import Cluster, report_progress, worker_backend
from nomad_dask.partition.checksums import save_checksums
from nomad_dask.partition.oom_retry import retry_in_halves
from nomad_dask.partition.rescaling import BlockRange, extreme_rows, fit_rescaling
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import describe_rows
from nomad_dask.sources.rescaling import Rescaling
from nomad_dask.sources.retry import with_retries
from nomad_dask.storage.atomic import atomic_write, write_npy_header
from nomad_dask.storage.disk_full import translate_disk_full

_COPY_BYTES = 64 << 20


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which vectors are stored: that of the source, but at most float32."""
    return dtype if dtype.itemsize < 4 or dtype == np.float32 else np.dtype(np.float32)


def draw_sample(
    run: RunContext, cluster: Cluster, on_progress: Callable[[int, int], None]
) -> tuple[list[str], dict[str, Any]]:
    """Read the source once: check every row, and write the sampled ones.

    Writes ``sample/vectors.npy`` (n_sampled, n_dims), ``sample/rows.npy`` (n_sampled,) int64 row numbers, ascending,
    ``sample/rescaling.npy``, by which the vectors of the sample and later all others are rescaled, and the checksums
    of what the source computes.

    Returns
    -------
    names : list of str
        Artifacts.
    facts : dict
        See `extreme_rows`.
    """
    plan = run.plan
    rng = np.random.default_rng([run.params.random_state, 1])
    rows = np.sort(rng.choice(plan.n_rows, plan.sample_rows, replace=False, shuffle=False)).astype(np.int64)
    groups = run.source.read_groups(plan.block_rows)
    offsets = np.searchsorted(rows, [blocks[0][0] for blocks in groups] + [plan.n_rows])
    with atomic_write(run.file("sample/vectors.npy")) as unfinished:
        shape = (len(rows), plan.n_dims)
        np.lib.format.open_memmap(unfinished, "w+", run.source.dtype, shape).flush()
        _reserve_disk(unfinished, run.file("sample/vectors.npy"))
        jobs = []
        for i, blocks in enumerate(groups):
            part = replace(run, source=run.source.slice_rows(blocks[0][0], blocks[-1][1]))
            jobs.append((part, unfinished, blocks, rows[offsets[i] : offsets[i + 1]], int(offsets[i])))
        results = cluster.run(_sample_blocks, jobs, on_progress)
        ranges = list(chain.from_iterable(found for found, _ in results))
        rescaling = fit_rescaling(run, unfinished, [found for _, found in ranges])
        _convert(unfinished, len(rows), working_dtype(run.source.dtype), rescaling)
    facts = extreme_rows(run, cluster, rescaling, ranges)
    for name, array in (("rows", rows), ("rescaling", rescaling.as_array())):
        with atomic_write(run.file(f"sample/{name}.npy")) as unfinished, unfinished.open("wb") as f:
            np.save(f, array)
    checksums = save_checksums(run, [run.source.checksums(0, plan.n_rows), *(found for _, found in results)])
    return [*(f"sample/{name}.npy" for name in ("vectors", "rows", "rescaling")), *checksums], facts


def _reserve_disk(file: Path, final_path: Path) -> None:
    """Allocate the disk blocks of a file: a disk that fills up later would kill the process that writes to the map.

    Raises
    ------
    DiskFullError
        Names `final_path`.
    """
    if hasattr(os, "posix_fallocate"):
        size = file.stat().st_size
        with translate_disk_full(final_path, size), file.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, size)


def _sample_blocks(
    run: RunContext, target: Path, blocks: list[tuple[int, int]], rows: np.ndarray, first: int
) -> tuple[list[BlockRange], dict[int, int]]:
    """Check the rows of consecutive blocks, and write the sampled ones to `target` from its row `first` on.

    Returns
    -------
    ranges : list of ((start, stop), ValueRange)
        The range of the values of each block.
    checksums : dict
        See `Source.checksums`.
    """
    out = np.lib.format.open_memmap(target, "r+")
    ranges: list[BlockRange] = []
    for start, stop in blocks:
        found = ValueRange(0.0, False)
        for sampled, *of_part in retry_in_halves(partial(_read_sampled, run, rows), start, stop):
            out[first : first + len(sampled)] = sampled
            first += len(sampled)
            found |= tuple(of_part)
        ranges.append(((start, stop), found))
        report_progress(stop - blocks[0][0])
    out.flush()
    return ranges, run.source.checksums(blocks[0][0], blocks[-1][1])


def _read_sampled(run: RunContext, rows: np.ndarray, start: int, stop: int) -> tuple[Any, ...]:
    """Read and check rows `start` to `stop`, and return those that are in the sample, and the range of all."""
    sampled = rows[slice(*np.searchsorted(rows, (start, stop)))]
    with worker_backend(run.device) as backend:
        block = with_retries(partial(backend.read, run.source, start, stop), describe_rows(run.source, start, stop))
        backend.check_finite(block, start, run.source.name)
        return (backend.gather_to_host(block, sampled - start), *backend.value_range(block, run.params.metric))


def _convert(file: Path, n_rows: int, dtype: np.dtype[Any], rescaling: Rescaling) -> None:
    """Replace vectors in a file by rescaled ones, or by ones of another dtype; the file is kept if nothing changes."""
    vectors = RowFile.open(file)
    if rescaling.is_identity and vectors.dtype == dtype:
        return
    n_dims = vectors.row_shape[0]
    step = max(1, _COPY_BYTES // (8 * n_dims))
    with atomic_write(file) as unfinished, unfinished.open("wb") as out:
        write_npy_header(out, dtype if rescaling.is_identity else np.dtype(np.float32), (n_rows, n_dims))
        for start in range(0, n_rows, step):
            rows = vectors.read(start, min(start + step, n_rows))
            (rows.astype(dtype) if rescaling.is_identity else rescaling.apply(rows)).tofile(out)


def copy_rows(path: Path, target: Path, rows: np.ndarray) -> None:
    """Copy some rows of a ``.npy`` file, in ascending order, to another one, a block at a time."""
    file = RowFile.open(path)
    shape = (len(rows), *file.row_shape)
    step = max(1, _COPY_BYTES // (file.dtype.itemsize * shape[1]))
    n_read = int(rows[-1]) + 1
    with atomic_write(target) as unfinished, unfinished.open("wb") as out:
        write_npy_header(out, file.dtype, shape)
        for start in range(0, n_read, step):
            stop = min(start + step, n_read)
            selected = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            file.read(start, stop)[selected - start].tofile(out)
