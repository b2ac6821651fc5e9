"""The runtime of a CUDA device, with CuPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.cublas_gemm import multiply_half
from nomad_dask.backends.gpu.device_memory import largest_block_bytes
from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.nccl import NcclCommunicator, communicator_id
from nomad_dask.backends.gpu.pinned_copies import PinnedCopies
from nomad_dask.backends.gpu.runtime import BLOCK, Transform, count_blocks
from nomad_dask.errors import ClusterError


class CudaRuntime:
    """The CUDA device of this process.

    Raises
    ------
    ClusterError
        CuPy or a usable device is missing.
    """

    name = "cuda"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise ClusterError(
                f"device='gpu' needs CuPy, which cannot be imported here ({error}): "
                "install cupy-cuda13x on every worker, or use device='cpu'."
            ) from error
        if not cupy.cuda.is_available():
            raise ClusterError(
                "device='gpu' needs an NVIDIA GPU with a driver for CUDA 13, and CuPy finds none: check "
                "nvidia-smi and CUDA_VISIBLE_DEVICES on every worker, or use device='cpu'."
            )
        self.xp: Any = cupy
        self._modules: dict[tuple[Path, int], Any] = {}
        self._functions: dict[tuple[str, int], Any] = {}
        self._copies = PinnedCopies(cupy)

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        """Launch a kernel; see `Runtime`."""
        function = self._functions.get((kernel, dim))
        if function is None:
            function = self._functions[kernel, dim] = self._compile(kernel, dim)
        function((count_blocks(n_items),), (BLOCK,), tuple(np.uintp(0) if a is None else a for a in args))

    def _compile(self, kernel: str, dim: int) -> Any:
        path = kernel_files()[kernel]
        module = self._modules.get((path, dim))
        if module is None:
            options = ("-std=c++17", f"-DDIM={dim}")
            module = self.xp.RawModule(code=kernel_source(path), options=options)
            self._modules[path, dim] = module
        return module.get_function(kernel)

    def transform(self, shape: tuple[int, ...]) -> Transform:
        """Return the Fourier transforms of a padded shape."""
        return _CudaTransform(self.xp, shape)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays the launches of `work` as a CUDA graph."""
        return _CudaGraph(self.xp, work)

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy on the device."""
        target = self.xp.empty(array.shape, array.dtype)
        self._copies.upload(target, array)
        return target

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host, after all earlier work has finished."""
        return self._copies.download(self.xp.ascontiguousarray(array))

    def upload_into(self, target: Any, array: np.ndarray) -> None:
        """Copy an array to a device array of the same shape and dtype, without waiting for the copy."""
        _check_same_type(target, array)
        self._copies.upload(target, array)

    def free_bytes(self) -> int:
        """Return the size of the largest array that the device can still hold; see `largest_block_bytes`."""
        self.synchronize()  # what was freed returns to the device then
        return largest_block_bytes(self.xp)

    def synchronize(self) -> None:
        """Wait until all work is done."""
        self.xp.cuda.get_current_stream().synchronize()

    def multiply_half(self, queries: Any, targets: Any, products: Any, jobs: np.ndarray) -> None:
        """Multiply blocks of rows in half precision; see `cublas_gemm.multiply_half`."""
        multiply_half(queries, targets, products, jobs)

    def free_pools(self) -> None:
        """Return unused memory of CuPy's pools to the device."""
        self.synchronize()
        self._copies.clear()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def communicator_id(self) -> Any:
        """Return the identifier of a new group of GPUs; see `JointLayouts`."""
        return communicator_id()

    def open_communicator(self, communicator_id: Any, rank: int, n_members: int) -> NcclCommunicator:
        """Join a new group of GPUs; see `JointLayouts`."""
        return NcclCommunicator(self.xp, communicator_id, rank, n_members)


class _CudaTransform:
    """`Transform` with two cuFFT plans, whose work areas are allocated once, here."""

    def __init__(self, cupy: Any, shape: tuple[int, ...]) -> None:
        from cupy.cuda import cufft

        half = (*shape[:-1], shape[-1] // 2 + 1)
        self.real = cupy.zeros(shape, cupy.float32)
        self.spectrum = cupy.zeros(half, cupy.complex64)
        self.potential = cupy.zeros(shape, cupy.float32)
        n_real, n_half = self.real.size, self.spectrum.size
        last = len(shape) - 1
        try:
            self._r2c = cufft.PlanNd(shape, None, 1, n_real, None, 1, n_half, cufft.CUFFT_R2C, 1, "C", last, half[-1])
            self._c2r = cufft.PlanNd(shape, None, 1, n_half, None, 1, n_real, cufft.CUFFT_C2R, 1, "C", last, shape[-1])
        except cufft.CuFFTError as error:
            if "ALLOC_FAILED" not in str(error):
                raise
            raise MemoryError(f"cuFFT cannot allocate the buffers for a transform of {shape}") from error
        self._forward, self._inverse = cufft.CUFFT_FORWARD, cufft.CUFFT_INVERSE

    def forward(self) -> None:
        """Transform `real` to `spectrum`."""
        self._r2c.fft(self.real, self.spectrum, self._forward)

    def inverse(self) -> None:
        """Transform `spectrum` to `potential`, not scaled."""
        self._c2r.fft(self.spectrum, self.potential, self._inverse)


class _CudaGraph:
    """Launches that are captured as a CUDA graph at the second call.

    The first call executes them directly. This loads the kernels, which must not happen during a capture; and while
    the map grows, many mesh shapes are used only once.
    """

    def __init__(self, cupy: Any, work: Callable[[], None]) -> None:
        self._cupy = cupy
        self._work = work
        self._executed_once = False
        self._graph: Any = None

    def __call__(self) -> None:
        if not self._executed_once:
            self._work()
            self._executed_once = True
            return
        if self._graph is None:
            # The default stream cannot be captured. Nothing is executed on this one.
            stream = self._cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                try:
                    self._work()
                finally:
                    graph = stream.end_capture()
            self._graph = graph
        self._graph.launch(self._cupy.cuda.get_current_stream())


def _check_same_type(target: Any, array: np.ndarray) -> None:
    if target.shape != array.shape or target.dtype != array.dtype:
        raise ValueError(f"{array.dtype}{array.shape} cannot be copied to {target.dtype}{target.shape}")
