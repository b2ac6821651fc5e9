"""Checks of a GPU that say whether results are right, and what memory and files do there."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_card import Card, waited
from benchmarks.gpu_data import MixtureSource
from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.kernel_files import kernel_files
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.errors import DeviceMemoryError
from nomad_dask.sources import open_source
from tests.helpers.every_kernel import launch_all, missing
from tests.helpers.gpu_card import step_differences
from tests.helpers.repeats import Arrays, repeated_axes, repeated_cells, repeated_epochs, repeated_neighbors
from tests.helpers.sanitizer import find_sanitizer, sanitize

Tell = Callable[[dict[str, Any]], None]

# Rows, dimensions of the map, normalization, repulsion, and patches of another shard.
_STEPS = (
    (200_000, 2, "global", "field", 300),
    (40_000, 3, "global", "field", 300),
    (100_000, 2, "point", "field", 300),
    (40_000, 2, "global", "means", 300),
    (40_000, 3, "point", "means", 0),
    (900, 2, "global", "field", 0),
)
_TIMES = 3
_DIMS = 64
# More than any GPU has.
_TOO_MANY_BYTES = 1 << 50


class NotAvailableError(Exception):
    """What a measurement needs is not on this machine."""


def launches(card: Card, tell: Tell) -> None:
    """Launch every kernel in two and three dimensions, twice: the first time, they are compiled."""
    record: dict[str, Any] = {}
    for name in ("first_s", "again_s"):
        launched, record[name] = waited(card, lambda: launch_all(card.runtime))
        record["launched"], record["missing"] = len(launched), missing(launched)
        tell(record | {"passed": not record["missing"]})


def agreement(card: Card, tell: Tell, max_rows: int | None = None) -> None:
    """Compare steps with those of the CPU; differences are multiples of what rounding may cause."""
    cpu, gpu = CpuBackend(min(4, os.cpu_count() or 1)), GpuBackend(card.runtime)
    record: dict[str, Any] = {"passed": True, "differences": {}}
    try:
        for n, dim, normalization, repulsion, n_far in _STEPS:
            rows = min(n, max_rows or n)
            found = step_differences(cpu, gpu, rows, dim, normalization, repulsion, n_far)
            record["differences"][f"{rows:,} rows, {dim}-D, {normalization}, {repulsion}, {n_far} patches"] = found
            record["passed"] &= max(found.values()) <= 1
            tell(record)
    finally:
        cpu.close()


def same_bits(card: Card, scratch: Path, tell: Tell, max_rows: int | None = None) -> None:
    """Repeat axes, cells, neighbors and epochs with the same seed, and compare the bits."""
    backend = GpuBackend(card.runtime)
    x = MixtureSource(min(40_000, max_rows or 40_000), n_dims=48).read(0, min(40_000, max_rows or 40_000))
    record: dict[str, Any] = {"passed": True, "times": _TIMES, "equal": {}}

    def compare(name: str, results: list[Arrays]) -> None:
        equal = all(
            np.array_equal(a, b, equal_nan=True)
            for other in results[1:]
            for a, b in zip(other, results[0], strict=True)
        )  # fmt: skip
        record["equal"][name] = equal
        record["passed"] &= equal
        tell(record)

    for n, dim, normalization, repulsion in (
        (300_000, 2, "global", "field"), (60_000, 3, "global", "field"), (100_000, 2, "point", "field"),
        (30_000, 2, "point", "means"),
    ):  # fmt: skip
        rows = min(n, max_rows or n)
        name = f"20 epochs of {rows:,} rows, {dim}-D, {normalization}, {repulsion}"
        compare(name, repeated_epochs(backend, rows, dim, normalization, repulsion, _TIMES))
    compare("axes", repeated_axes(backend, x, _TIMES))
    compare("cells", repeated_cells(backend, x, len(x) // 200, _TIMES))
    compare("neighbors", repeated_neighbors(backend, x, len(x) // 200, scratch, _TIMES))


def sanitized(tool: str, tell: Tell, limit: float) -> None:
    """Launch every kernel under a tool of compute-sanitizer.

    Raises
    ------
    NotAvailableError
        It is not installed.
    """
    program = find_sanitizer()
    if program is None:
        raise NotAvailableError("compute-sanitizer is not installed: it comes with the CUDA toolkit")
    done = sanitize(program, tool, sorted(kernel_files()), ["-m", "tests.helpers.every_kernel"], limit)
    launched = "all kernels were launched" in done.stdout
    record: dict[str, Any] = {"tool": tool, "exit_code": done.returncode, "all_launched": launched}
    record["summary"] = [line.strip("= ") for line in done.stdout.splitlines() if "SUMMARY" in line]
    record["passed"] = done.returncode == 0 and launched
    if not record["passed"]:
        record["output"] = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    tell(record)


def memory(card: Card, tell: Tell, copied_bytes: int = 1 << 30) -> None:
    """Allocate all free memory, then more than there is, and measure copies from and to the host."""
    runtime = card.runtime
    free = runtime.free_bytes()
    record: dict[str, Any] = {"free_bytes": free}
    try:
        record["allocated_bytes"] = runtime.xp.empty(free - free // 64, np.uint8).nbytes
    except MemoryError as error:
        record["not_allocated"] = str(error)
    runtime.free_pools()
    try:
        with translate_oom(runtime, "an array larger than any memory"):
            runtime.xp.empty(_TOO_MANY_BYTES, np.uint8)
    except DeviceMemoryError as error:
        record["error"] = str(error)
    record["passed"] = "error" in record and "not_allocated" not in record
    tell(record)

    rows = np.arange(copied_bytes // 4, dtype=np.uint32)
    on_device, first = waited(card, lambda: runtime.upload(rows))  # pins the memory that it copies through
    _, again = waited(card, lambda: runtime.upload_into(on_device, rows))
    back, down = waited(card, lambda: runtime.download(on_device))
    record |= {"first_upload_bytes_s": rows.nbytes / first, "upload_bytes_s": rows.nbytes / again}
    record |= {"download_bytes_s": rows.nbytes / down, "equal": bool(np.array_equal(back, rows))}
    record["passed"] &= record["equal"]
    tell(record)


def reading(card: Card, n: int, scratch: Path, tell: Tell) -> None:
    """Read files to the device, the first time from the disk, and compare the rows with those that were written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    backend = GpuBackend(card.runtime)
    x = MixtureSource(n, _DIMS).read(0, n)
    files = {"npy, float32": scratch / "single.npy", "npy, float16": scratch / "half.npy"}
    np.save(files["npy, float32"], x)
    np.save(files["npy, float16"], x.astype(np.float16))
    files["Parquet, float32"] = scratch / "single.parquet"
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), _DIMS)
    pq.write_table(pa.table({"embedding": column}), files["Parquet, float32"], row_group_size=1 << 18)
    record: dict[str, Any] = {"rows": n, "dims": _DIMS, "passed": True, "files": {}}
    record["installed"] = [name for name in ("kvikio", "cudf") if find_spec(name)]
    for name, path in files.items():
        source = open_source(path)
        _drop_from_cache(path)
        seconds = [waited(card, lambda source=source: backend.read(source, 0, n))[1] for _ in range(2)]  # type: ignore[misc]
        rows = card.runtime.download(backend.read(source, 0, n))
        equal = bool(np.array_equal(rows, x.astype(rows.dtype)))
        size = path.stat().st_size
        record["files"][name] = {
            "bytes": size, "from_disk_bytes_s": size / seconds[0], "cached_bytes_s": size / seconds[1], "equal": equal,
        }  # fmt: skip
        record["passed"] &= equal
        tell(record)


def _drop_from_cache(path: Path) -> None:
    """Ask the system to forget a file; not every file system does."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
