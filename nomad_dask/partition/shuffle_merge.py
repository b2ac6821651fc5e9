"""Second half of the shuffle: each shard merges its rows from the sorted runs of all blocks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.cluster import report_progress, worker_threads
from nomad_dask.partition.clustering import load_partition
from nomad_dask.partition.sampling import working_dtype
from nomad_dask.partition.shard_files import BLOCK_FILES, GIVEN_ARRAYS, SHARD_FILES, block_file, shard_file
from nomad_dask.partition.split_cells import split_oversized_cells
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.atomic import atomic_write, write_npy_header
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.npy_writer import appended_npy
from nomad_dask.utils.threads import map_ahead

# Cells of more than this many mean sizes are split.
_MAX_CELL_SIZE = 4


def merge_runs(run: RunContext, shard: int, n_blocks: int) -> list[Artifact]:
    """Merge the rows of one shard from all runs, in the order of their cells.

    Writes under ``shards/``: ``vectors`` (n_rows, n_dims), ``rows`` (n_rows,) int64 row numbers of the source,
    ``start`` (n_rows, dim) initial positions before scaling, ``cell_offsets`` (n_cells + 1,), ``centroids``
    (n_cells, n_dims), and the `GIVEN_ARRAYS` if there are any.
    """
    plan = run.plan
    given = GIVEN_ARRAYS if run.params.has_given_neighbors else ()
    offsets = _cell_offsets_in_blocks(run, shard, n_blocks)
    counts = np.diff(offsets, axis=1).sum(axis=0)
    max_cell_rows = max(2, _MAX_CELL_SIZE * plan.n_rows // plan.n_cells)
    # A single run is already merged: its vectors are linked instead of copied.
    is_merged = n_blocks == 1 and plan.n_shards == 1 and counts.max() <= max_cell_rows
    merged: dict[str, list[np.ndarray]] = {name: [] for name in SHARD_FILES if name != "vectors"}
    files = _open_blocks(run, n_blocks, given)

    def merge_cells(cells: tuple[int, int]) -> dict[str, np.ndarray]:
        first, last = cells
        arrays = _read_cells(files, offsets[:, first], offsets[:, last])
        order = np.argsort(arrays["cells"], kind="stable")
        order, sizes = split_oversized_cells(
            arrays["vectors"], order, counts[first:last], max_cell_rows, run.params.metric
        )
        vectors = arrays["vectors"] if is_merged else arrays["vectors"][order]
        return {
            "vectors": vectors,
            "rows": arrays["rows"][order],
            "start": arrays["start"][order],
            "cell_offsets": sizes,
            "centroids": _cell_means(vectors, sizes, run.params.metric),
            **{name: arrays[name][order] for name in given},
        }

    n_threads = worker_threads(run.shard_threads)
    groups = group_cells(counts, max(1, plan.block_rows // n_threads))  # together they take the memory of a block
    n_done = 0
    with ExitStack() as stack:
        unfinished = stack.enter_context(atomic_write(run.file(shard_file(shard, "vectors")), durable=False))
        add_given = {
            name: stack.enter_context(
                appended_npy(run.file(shard_file(shard, name)), files[name][0].dtype, files[name][0].row_shape, False)
            )
            for name in given
        }
        if is_merged:
            _link_or_copy(run.file(block_file(0, "vectors")), unfinished)
        else:
            with unfinished.open("wb") as out:
                write_npy_header(out, working_dtype(run.source.dtype), (int(counts.sum()), plan.n_dims))
        for part in map_ahead(merge_cells, groups, n_threads):
            vectors = part.pop("vectors")
            if not is_merged:
                with unfinished.open("ab") as out:
                    vectors.tofile(out)
            for name, add in add_given.items():
                add(part.pop(name))
            for name, array in part.items():
                merged[name].append(array)
            n_done += len(vectors)
            report_progress(n_done)
    return _save_shard(ArtifactFolder(run.workspace), shard, merged, given)


def _cell_offsets_in_blocks(run: RunContext, shard: int, n_blocks: int) -> np.ndarray:
    """Return where each cell of a shard begins in each block, (n_blocks, n_cells + 1)."""
    first, last = load_partition(run).shard_offsets[shard : shard + 2]
    cells_of_blocks = (np.load(run.file(block_file(block, "cells")), mmap_mode="r") for block in range(n_blocks))
    return np.stack([np.searchsorted(cells, np.arange(first, last + 1)) for cells in cells_of_blocks])


def _open_blocks(run: RunContext, n_blocks: int, given: Sequence[str]) -> dict[str, list[RowFile]]:
    """Open the `BLOCK_FILES` and given lists of all blocks, before threads read them: see `RowFile`."""
    blocks, names = range(n_blocks), (*BLOCK_FILES, *given)
    return {name: [RowFile.open(run.file(block_file(block, name))) for block in blocks] for name in names}


def _read_cells(files: dict[str, list[RowFile]], starts: np.ndarray, stops: np.ndarray) -> dict[str, np.ndarray]:
    """Read rows ``starts[b]`` to ``stops[b]`` of every block b, for each array."""
    return {
        name: np.concatenate([
            file.read(start, stop) for file, start, stop in zip(of_blocks, starts, stops, strict=True)
        ])
        for name, of_blocks in files.items()
    }  # fmt: skip


def _save_shard(
    folder: ArtifactFolder, shard: int, merged: dict[str, list[np.ndarray]], given: Sequence[str]
) -> list[Artifact]:
    """Write the arrays of a shard beside its vectors and the given lists, and describe all of them."""
    artifacts = [folder.describe(shard_file(shard, name)) for name in ("vectors", *given)]
    for name, parts in merged.items():
        array = np.concatenate(parts)
        if name == "cell_offsets":
            array = np.concatenate([[0], np.cumsum(array)]).astype(np.int64)
        artifacts.append(folder.save(shard_file(shard, name), array))
    return artifacts


def _link_or_copy(path: Path, target: Path) -> None:
    """Replace a file by a second name of another one, whose first name is kept for tasks that are repeated."""
    target.unlink()
    try:
        target.hardlink_to(path)
    except OSError:  # the file system has no hard links
        shutil.copyfile(path, target)


def group_cells(counts: np.ndarray, max_rows: int) -> list[tuple[int, int]]:
    """Return ranges of consecutive cells with at most `max_rows` rows each, or with one cell."""
    groups, first, n_rows = [], 0, 0
    for cell, count in enumerate(counts):
        if n_rows and n_rows + count > max_rows:
            groups.append((first, cell))
            first, n_rows = cell, 0
        n_rows += count
    groups.append((first, len(counts)))
    return groups


def _cell_means(vectors: np.ndarray, sizes: np.ndarray, metric: str) -> np.ndarray:
    """Return the means (n_cells, n_dims) float32 of rows sorted by cell."""
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(to_float32(vectors, metric), starts, axis=0)
    return np.asarray(sums / sizes[:, None], np.float32)
