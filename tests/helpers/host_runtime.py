"""The GPU runtime on a machine without a GPU: the same kernels, compiled with g++ and run on emulated blocks.

In a Dask worker: ``dask worker --preload tests/helpers/host_runtime.py``.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.fft

from nomad_dask.backends.base import Backend
from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.gpu.runtime import count_blocks
from tests.helpers.cpp_library import cpp_library
from tests.helpers.host_communicator import HostCommunicator, communicator_id

_SHIM = Path(__file__).with_name("cuda_shim.h")
_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-Bsymbolic", "-U_FORTIFY_SOURCE",
    "-fno-stack-protector", "-fno-strict-aliasing", "-ffp-contract=off", "-Wno-unknown-pragmas",
)  # fmt: skip
_LOCK = threading.Lock()


class _Argument(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("item_kind", ctypes.c_int),
        ("item_bytes", ctypes.c_long),
        ("total_bytes", ctypes.c_long),
        ("address", ctypes.c_void_p),
    )


@lru_cache
def _library(path: Path, dim: int) -> ctypes.CDLL:
    """Compile one file of kernels, unless it was compiled before, and load it."""
    stubs = "".join(
        'extern "C" __attribute__((visibility("default"))) const char* launch_'
        f"{name}(const shim::Argument* arguments, int n, long blocks, unsigned long seed) "
        f'{{ return shim::launch({name}, "{name}", arguments, n, blocks, seed); }}\n'
        for name, where in kernel_files().items()
        if where == path
    )
    source = f'#include "{_SHIM.name}"\n#include "{path.name}"\n{stubs}'
    texts = (_SHIM.read_text(), kernel_source(path))  # with its headers in place
    return cpp_library(f"{path.stem}-{dim}d", source, (*_FLAGS, f"-DDIM={dim}"), (_SHIM.parent, path.parent), texts)


@dataclass(frozen=True)
class _Scalar:
    """A NumPy scalar, in memory that has an address."""

    held: np.ndarray


def _argument(kernel: str, place: int, value: Any) -> _Argument:
    """Describe an argument by its address, which must stay valid during the call."""
    if value is None:
        return _Argument(ord("p"), 0, 0, 0, None)
    if isinstance(value, _Scalar):
        held = value.held
        return _Argument(ord(held.dtype.kind), 0, held.itemsize, held.itemsize, held.ctypes.data)
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise TypeError(f"{kernel}: argument {place} is not contiguous")
        return _Argument(ord("p"), ord(value.dtype.kind), value.dtype.itemsize, value.nbytes, value.ctypes.data)
    raise TypeError(f"{kernel}: argument {place} is a {type(value).__name__}; pass an array, None or a NumPy scalar")


class HostTransform:
    """Real Fourier transforms of one padded shape by SciPy."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.real = np.zeros(shape, np.float32)
        self.spectrum = np.zeros((*shape[:-1], shape[-1] // 2 + 1), np.complex64)
        self.potential = np.zeros(shape, np.float32)

    def forward(self) -> None:
        self.spectrum[...] = scipy.fft.rfftn(self.real)

    def inverse(self) -> None:
        self.potential[...] = scipy.fft.irfftn(self.spectrum, self.real.shape, norm="forward")


@dataclass(frozen=True)
class HostRuntime:
    """NumPy instead of CuPy, and kernels on emulated blocks.

    Parameters
    ----------
    seed : int
        0 runs blocks and threads in order; any other number shuffles both.
    free : int
        Bytes that `free_bytes` returns.
    """

    seed: int = 0
    free: int = 8 << 30
    name: ClassVar[str] = "host"
    xp: ClassVar[Any] = np

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        path = kernel_files().get(kernel)
        if path is None:
            raise ValueError(f"no kernel is named {kernel}; there are {', '.join(sorted(kernel_files()))}")
        with _LOCK:
            library = _library(path, dim)
        call = getattr(library, f"launch_{kernel}")
        call.restype = ctypes.c_char_p
        held = [_Scalar(np.atleast_1d(a)) if isinstance(a, np.generic) else a for a in args]
        packed = (_Argument * len(args))(*(_argument(kernel, place + 1, a) for place, a in enumerate(held)))
        with _LOCK:  # blocks and threads are emulated in static variables
            message = call(packed, len(args), ctypes.c_long(count_blocks(n_items)), ctypes.c_ulong(self.seed))
        if message:
            raise RuntimeError(message.decode())

    def transform(self, shape: tuple[int, ...]) -> HostTransform:
        return HostTransform(tuple(shape))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C")

    def download(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def upload_into(self, target: np.ndarray, array: np.ndarray) -> None:
        if target.shape != array.shape or target.dtype != array.dtype:
            raise ValueError(f"{array.dtype}{array.shape} does not go into {target.dtype}{target.shape}")
        target[...] = array

    def free_bytes(self) -> int:
        return self.free

    def synchronize(self) -> None:
        pass

    def multiply_half(self, queries: np.ndarray, targets: np.ndarray, products: np.ndarray, jobs: np.ndarray) -> None:
        queries, targets = queries.view(np.float16), targets.view(np.float16)
        for first_query, n_queries, first_target, n_targets, offset, stride in jobs.tolist():
            a, b = queries[first_query : first_query + n_queries], targets[first_target : first_target + n_targets]
            out = np.lib.stride_tricks.as_strided(products[offset:], (n_queries, n_targets), (4 * stride, 4))
            out[...] = a.astype(np.float32) @ b.astype(np.float32).T

    def free_pools(self) -> None:
        pass

    def communicator_id(self) -> bytes:
        return communicator_id()

    def open_communicator(self, communicator_id: bytes, rank: int, n_members: int) -> HostCommunicator:
        return HostCommunicator(communicator_id, rank, n_members, self.seed)


def dask_setup(worker: Any) -> None:
    """Use the host runtime in a Dask worker."""
    PROCESS_RUNTIME.set(HostRuntime())


def is_emulated(backend: Backend) -> bool:
    """Return whether a backend runs GPU kernels on the host, for which data must be small."""
    return isinstance(getattr(backend, "runtime", None), HostRuntime)
