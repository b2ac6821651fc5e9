"""The GPU that is measured: the time that work takes, and its ceilings."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends import devices
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.gpu.runtime import Runtime

REPEATS = 7
# Larger than the caches of any GPU: written before every measured run, so that each begins with cold caches.
_WASH_BYTES = 512 << 20
_COPY_BYTES = 2 << 30
_MATRIX = 8192
MATRIX_KINDS = ("float16", "TF32", "float32")
_PACKAGES = (
    "nomad-dask", "numpy", "dask", "cupy-cuda13x", "cupy-cuda12x", "cudf-cu13", "cudf-cu12", "cuml-cu13", "cuml-cu12",
    "cuvs-cu13", "cuvs-cu12", "dask-cuda", "distributed", "kvikio-cu13", "kvikio-cu12", "numba", "rmm-cu13", "rmm-cu12",
)  # fmt: skip


class Card(Protocol):
    """The interface of a GPU for the measurements; the tests use the host instead."""

    runtime: Runtime

    def seconds(self, work: Callable[[], Any], repeats: int = REPEATS) -> float:
        """Return the median time on the device of several runs of `work`, after one that is not measured."""

    def used_bytes(self) -> int:
        """Return the memory of the device that is in use, with what pools hold; 0 on the host."""

    def multiply(self, kind: str, a: Any, b: Any, out: Any) -> None:
        """Multiply square matrices of one of `MATRIX_KINDS`, all in C order; `out` is float32."""


class CudaCard:
    """The CUDA device of this process."""

    def __init__(self) -> None:
        self.runtime: Runtime = PROCESS_RUNTIME.get()

    def seconds(self, work: Callable[[], Any], repeats: int = REPEATS) -> float:
        """Measure the time with events on the stream; see `Card`. The host runs ahead while the caches are cleared."""
        import cupy

        work()
        wash = cupy.empty(_WASH_BYTES, np.uint8)
        stream = cupy.cuda.get_current_stream()
        pairs = []
        for _ in range(repeats):
            began, ended = cupy.cuda.Event(), cupy.cuda.Event()
            wash.fill(0)
            began.record(stream)
            work()
            ended.record(stream)
            pairs.append((began, ended))
        stream.synchronize()
        return statistics.median(cupy.cuda.get_elapsed_time(began, ended) for began, ended in pairs) / 1e3

    def used_bytes(self) -> int:
        """Return what the driver reports as in use, by other processes too."""
        import cupy

        free, total = cupy.cuda.runtime.memGetInfo()
        return int(total - free)

    def multiply(self, kind: str, a: Any, b: Any, out: Any) -> None:
        """Multiply with cuBLAS, which transposes the first matrix; this does not affect the time."""
        import cupy
        from cupy_backends.cuda.libs import cublas

        n = len(a)
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        single = cupy.cuda.runtime.CUDA_R_32F
        given = cupy.cuda.runtime.CUDA_R_16F if kind == "float16" else single
        how = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if kind == "TF32" else cublas.CUBLAS_COMPUTE_32F
        handle = cupy.cuda.device.get_cublas_handle()
        cublas.gemmEx(
            handle, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, n, n, n, one.ctypes.data, a.data.ptr, given, n, b.data.ptr,
            given, n, zero.ctypes.data, out.data.ptr, single, n, how, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


def copy_rate(card: Card, n_bytes: int = _COPY_BYTES) -> float:
    """Return the bytes per second of a copy on the device, counting both reads and writes."""
    xp = card.runtime.xp
    source, target = xp.ones(n_bytes // 4, np.float32), xp.empty(n_bytes // 4, np.float32)
    return 2 * source.nbytes / card.seconds(lambda: xp.copyto(target, source))


def matrix_rate(card: Card, kind: str, n: int = _MATRIX) -> float:
    """Return the floating-point operations per second of a product of square matrices."""
    xp = card.runtime.xp
    # Small numbers of both signs: cards slow down over random bits, and zeros would be too easy for them.
    numbers = (xp.arange(n * n, dtype=np.int64) * 7919 % 1013).reshape(n, n).astype(np.float32)
    numbers = ((numbers - np.float32(506)) / np.float32(1013)).astype(np.float16 if kind == "float16" else np.float32)
    out = xp.empty((n, n), np.float32)
    return 2 * n**3 / card.seconds(lambda: card.multiply(kind, numbers, numbers, out))


def ceilings(card: Card, n_bytes: int = _COPY_BYTES, n: int = _MATRIX) -> dict[str, float]:
    """Measure the limits of this GPU."""
    rates = {kind: matrix_rate(card, kind, n) for kind in MATRIX_KINDS}
    return {"copy_bytes_s": copy_rate(card, n_bytes)} | {f"{kind}_flop_s": rate for kind, rate in rates.items()}


def waited(card: Card, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `work`, and the wall time in seconds until the device has finished."""
    card.runtime.synchronize()
    began = time.monotonic()
    made = work()
    card.runtime.synchronize()
    return made, time.monotonic() - began


def about() -> dict[str, Any]:
    """Return a description of the machine. RAPIDS need not be installed.

    Raises
    ------
    SystemExit
        There is no card.
    """
    found = devices.detect_gpu(packages=())
    if isinstance(found, devices.NoGpu):
        raise SystemExit(f"This measures a GPU, and there is none that can be used: {found.lacks}.")
    import cupy

    cuda = cupy.cuda.runtime
    return {
        "card": found.name,
        "memory_gb": round(found.total_bytes / 1e9, 1),
        "cuda": {"driver": cuda.driverGetVersion(), "runtime": cuda.runtimeGetVersion()},
        "nvidia_smi": _smi(),
    } | about_host()


def about_host() -> dict[str, Any]:
    """Return a description of the machine without its card."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "host_memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _smi() -> dict[str, str] | None:
    """Return driver, power and clocks from nvidia-smi; None if it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = ["driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "persistence_mode"]
    command = [program, f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "--id=0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        return None
    return dict(zip(asked, (field.strip() for field in told.stdout.strip().split(",")), strict=False))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
