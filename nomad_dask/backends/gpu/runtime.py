"""The seam inside the GPU backend: arrays, kernels, transforms and copies of one device.

Everything above asks the `Runtime` that `get_runtime` gives, and imports no CuPy itself. All work of a process
goes to one stream in order: nothing waits for the device but `download` and `synchronize`.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.gpu.device_memory import device_free_bytes
from nomad_dask.errors import ClusterError, DeviceMemoryError, ResourceError

BLOCK = 256
MAX_BLOCKS = 4096
_KERNELS = Path(__file__).with_name("kernels")
_INCLUDE = re.compile(r'^[ \t]*#include "([\w.]+)"[^\n]*$', re.MULTILINE)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_REQUESTED = re.compile(r"allocating ([\d,]+) bytes")


class Transform(Protocol):
    """Real Fourier transforms there and back of one padded mesh shape, with all buffers kept.

    Attributes
    ----------
    real : array of float32 (padded shape)
        What `forward` transforms. Charges go to the corner that is not padding; the rest must stay zero.
    spectrum : array of complex64
        In the layout of `scipy.fft.rfftn`; `inverse` may destroy it.
    potential : array of float32 (padded shape)
        What `inverse` makes.
    """

    real: Any
    spectrum: Any
    potential: Any

    def forward(self) -> None:
        """Transform `real` to `spectrum`."""

    def inverse(self) -> None:
        """Transform `spectrum` to `potential`, with the factor that `scipy.fft.irfftn` has."""


class Runtime(Protocol):
    """One device: NumPy-like arrays on it, and what they need beside.

    Attributes
    ----------
    name : str
    xp : module
        CuPy, or what stands for it.
    """

    name: str
    xp: Any

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        """Start a kernel for maps of `dim` dimensions on `blocks` (n_items) blocks of 256 threads.

        `args` are arrays, NumPy scalars of the kernel's types, and None for a null pointer.
        """

    def transform(self, shape: tuple[int, ...]) -> Transform:
        """Return the transforms of a padded shape."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does the launches of `work` again at less cost; all arrays must stay where they are."""

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy on the device."""

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host, once all work before is done."""

    def upload_into(self, target: Any, array: np.ndarray) -> None:
        """Write an array into one on the device of the same shape and dtype, without waiting for it."""

    def free_bytes(self) -> int:
        """Return the free memory of the device."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def kmeans(self, sample: Any, n_clusters: int, seed: int) -> Any:
        """Return K-Means centres (n_clusters, d) of the rows of an array (n, d) float32."""

    def half_products(self, queries: Any, targets: Any, jobs: np.ndarray, products: Any) -> None:
        """Multiply stretches of rows of half precision, see `cell_products.half_products`."""


def blocks(n_items: int) -> int:
    """Return how many blocks a launch over `n_items` has, which is how many partial results it leaves."""
    return max(1, min(-(-n_items // BLOCK), MAX_BLOCKS))


@lru_cache
def kernel_files() -> dict[str, Path]:
    """Return for the name of each kernel the file it is in."""
    return {name: path for path in sorted(_KERNELS.glob("*.cu")) for name in _KERNEL.findall(path.read_text())}


@lru_cache
def kernel_source(path: Path) -> str:
    """Return the text of a kernel file with our own headers in place.

    The compiler would find them too, but CuPy's cache on disk tells programs apart by this text alone: a
    changed header would go unnoticed.
    """
    return _INCLUDE.sub(lambda found: kernel_source(path.with_name(found[1])), path.read_text())


class CudaRuntime:
    """The CUDA device of this process, by CuPy.

    Raises
    ------
    ClusterError
        There is no CuPy, or no device that it can use.
    """

    name = "cuda"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise ClusterError(
                f"device='gpu' needs CuPy, which cannot be imported here ({error}): "
                "install RAPIDS 26.10 or cupy-cuda13x on every worker, or give device='cpu'."
            ) from error
        if not cupy.cuda.is_available():
            raise ClusterError(
                "device='gpu' needs an NVIDIA GPU with a driver for CUDA 13, and CuPy sees none: check "
                "nvidia-smi and CUDA_VISIBLE_DEVICES on every worker, or give device='cpu'."
            )
        self.xp: Any = cupy
        self._modules: dict[tuple[Path, int], Any] = {}
        self._functions: dict[tuple[str, int], Any] = {}
        # Pinned memory must outlive the copies out of it.
        self._in_flight: deque[tuple[Any, Any]] = deque()

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        """Start a kernel; see `Runtime`."""
        function = self._functions.get((kernel, dim))
        if function is None:
            function = self._functions[kernel, dim] = self._compile(kernel, dim)
        function((blocks(n_items),), (BLOCK,), tuple(np.uintp(0) if a is None else a for a in args))

    def _compile(self, kernel: str, dim: int) -> Any:
        path = kernel_files()[kernel]
        module = self._modules.get((path, dim))
        if module is None:
            options = ("-std=c++17", f"-DDIM={dim}")
            module = self.xp.RawModule(code=kernel_source(path), options=options)
            self._modules[path, dim] = module
        return module.get_function(kernel)

    def transform(self, shape: tuple[int, ...]) -> Transform:
        """Return the transforms of a padded shape."""
        return _CudaTransform(self.xp, shape)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what replays the launches of `work` as a CUDA graph."""
        return _Replay(self.xp, work)

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy on the device."""
        return self.xp.asarray(np.ascontiguousarray(array))

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host, once all work before is done."""
        array = self.xp.ascontiguousarray(array)
        if not array.size:
            return np.empty(array.shape, array.dtype)
        # Pageable memory would be copied in small steps.
        memory = self.xp.cuda.alloc_pinned_memory(array.nbytes)
        staged = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        stream = self.xp.cuda.get_current_stream()
        array.data.copy_to_host_async(staged.ctypes.data, array.nbytes, stream)
        stream.synchronize()
        return staged.copy()

    def upload_into(self, target: Any, array: np.ndarray) -> None:
        """Write an array into one on the device of the same shape and dtype, without waiting for it."""
        _check_alike(target, array)
        if not array.size:
            return
        memory = self.xp.cuda.alloc_pinned_memory(array.nbytes)
        staged = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        staged[...] = array
        stream = self.xp.cuda.get_current_stream()
        target.data.copy_from_host_async(staged.ctypes.data, array.nbytes, stream)
        done = self.xp.cuda.Event(disable_timing=True)
        done.record(stream)
        self._in_flight.append((done, memory))
        while self._in_flight and self._in_flight[0][0].done:
            self._in_flight.popleft()

    def free_bytes(self) -> int:
        """Return the free memory of the device, and what the pools of CuPy and RMM hold without using it."""
        return device_free_bytes(self.xp)

    def synchronize(self) -> None:
        """Wait until all work is done."""
        self.xp.cuda.get_current_stream().synchronize()

    def kmeans(self, sample: Any, n_clusters: int, seed: int) -> Any:
        """Return K-Means centres (n_clusters, d) of the rows of an array (n, d) float32."""
        from nomad_dask.backends.gpu.kmeans import cuml_kmeans

        return cuml_kmeans(sample, n_clusters, seed)

    def half_products(self, queries: Any, targets: Any, jobs: np.ndarray, products: Any) -> None:
        """Multiply stretches of rows of half precision, see `cell_products.half_products`."""
        from nomad_dask.backends.gpu.batched_gemm import half_products

        half_products(queries, targets, jobs, products)

    def give_back(self) -> None:
        """Return memory that is not in use to the device."""
        self.synchronize()
        self._in_flight.clear()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()


class _CudaTransform:
    """`Transform` by two cuFFT plans, whose work areas are allocated here and never again."""

    def __init__(self, cupy: Any, shape: tuple[int, ...]) -> None:
        from cupy.cuda import cufft

        half = (*shape[:-1], shape[-1] // 2 + 1)
        self.real = cupy.zeros(shape, cupy.float32)
        self.spectrum = cupy.zeros(half, cupy.complex64)
        self.potential = cupy.zeros(shape, cupy.float32)
        n_real, n_half = self.real.size, self.spectrum.size
        last = len(shape) - 1
        try:
            self._there = cufft.PlanNd(shape, None, 1, n_real, None, 1, n_half, cufft.CUFFT_R2C, 1, "C", last, half[-1])
            self._back = cufft.PlanNd(shape, None, 1, n_half, None, 1, n_real, cufft.CUFFT_C2R, 1, "C", last, shape[-1])
        except cufft.CuFFTError as error:
            if "ALLOC_FAILED" not in str(error):
                raise
            raise MemoryError(f"cuFFT found no room for a transform of {shape}") from error
        self._forward, self._inverse = cufft.CUFFT_FORWARD, cufft.CUFFT_INVERSE
        self._factor = np.float32(1 / n_real)

    def forward(self) -> None:
        """Transform `real` to `spectrum`."""
        self._there.fft(self.real, self.spectrum, self._forward)

    def inverse(self) -> None:
        """Transform `spectrum` to `potential`, with the factor that `scipy.fft.irfftn` has."""
        self.spectrum *= self._factor
        self._back.fft(self.spectrum, self.potential, self._inverse)


class _Replay:
    """Launches that become a CUDA graph when they are asked for a second time.

    The first time they are plainly done: that loads the kernels, which must not happen in a capture, and
    many a mesh shape is used only once while the map grows.
    """

    def __init__(self, cupy: Any, work: Callable[[], None]) -> None:
        self._cupy = cupy
        self._work = work
        self._done_before = False
        self._graph: Any = None

    def __call__(self) -> None:
        if not self._done_before:
            self._work()
            self._done_before = True
            return
        if self._graph is None:
            # The default stream cannot be captured, only another one, on which nothing is executed.
            stream = self._cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                try:
                    self._work()
                finally:
                    graph = stream.end_capture()
            self._graph = graph
        self._graph.launch(self._cupy.cuda.get_current_stream())


def _check_alike(target: Any, array: np.ndarray) -> None:
    if target.shape != array.shape or target.dtype != array.dtype:
        raise ValueError(f"{array.dtype}{array.shape} cannot be written into {target.dtype}{target.shape}")


_runtime: Runtime | None = None
_lock = threading.Lock()


def get_runtime() -> Runtime:
    """Return the runtime of this process: the one given to `set_runtime`, or else its CUDA device."""
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = CudaRuntime()
        return _runtime


def set_runtime(runtime: Runtime | None) -> None:
    """Put another runtime in place of the CUDA device; None for the device again."""
    global _runtime
    with _lock:
        _runtime = runtime


@contextmanager
def translate_oom(runtime: Runtime, what: str) -> Iterator[None]:
    """Turn an allocation that fails on the device into an error that says what to do.

    Parameters
    ----------
    runtime : Runtime
    what : str
        What is being done, for the message.

    Raises
    ------
    DeviceMemoryError
        With the bytes that were asked for and those that are missing.
    """
    try:
        yield
    except ResourceError:
        raise
    except MemoryError as error:
        free = runtime.free_bytes()
        found = _REQUESTED.search(str(error))
        requested = int(found[1].replace(",", "")) if found else 0
        asked = f"{requested:,} bytes more were asked for, " if requested else ""
        missing = f"{requested - free:,} bytes are missing" if requested > free else "they are not in one piece"
        raise DeviceMemoryError(
            f"The GPU has not enough memory for {what}: {asked}{free:,} bytes are free, {missing}. Give more "
            "shards on more GPUs (--shards), or free the memory that other processes hold on this GPU."
        ) from error
