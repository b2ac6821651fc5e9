"""The interface between the GPU backend and a device: arrays, kernels, Fourier transforms and copies.

The other modules of the backend receive a `Runtime` and import no CuPy. `CudaRuntime` is the one for a CUDA device.
All work of a process runs in order on one stream: only `download` and `synchronize` wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.joint import Communicator

BLOCK = 256
"""Threads of a block."""
MAX_PARTIALS = 4096
"""Largest number of partial results of a sum or bounding box over all items."""


class Transform(Protocol):
    """Forward and inverse real Fourier transforms of one padded mesh shape; all buffers are allocated once.

    Attributes
    ----------
    real : array of float32 (padded shape)
        Input of `forward`. Charges go to the corner that is not padding; the padding must stay zero.
    spectrum : array of complex64
        In the layout of `scipy.fft.rfftn`; `inverse` may overwrite it.
    potential : array of float32 (padded shape)
        Output of `inverse`.
    """

    real: Any
    spectrum: Any
    potential: Any

    def forward(self) -> None:
        """Transform `real` to `spectrum`."""

    def inverse(self) -> None:
        """Transform `spectrum` to `potential`, not scaled: after `forward`, that is `real` times its size."""


class Runtime(Protocol):
    """One device: an array module with the interface of NumPy, kernels, and copies to and from the host.

    Attributes
    ----------
    name : str
    xp : module
        CuPy, or a module with the same interface.
    """

    name: str
    xp: Any

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        """Launch a kernel for maps of `dim` dimensions with `count_blocks(n_items)` blocks of 256 threads.

        `args` are arrays, NumPy scalars of the kernel's types, and None for a null pointer.
        """

    def transform(self, shape: tuple[int, ...]) -> Transform:
        """Return the Fourier transforms of a padded shape."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that repeats the launches of `work` at lower cost; all arrays must stay in place."""

    def upload(self, array: np.ndarray) -> Any:
        """Return a copy on the device."""

    def download(self, array: Any) -> np.ndarray:
        """Return a copy on the host, after all earlier work has finished."""

    def upload_into(self, target: Any, array: np.ndarray) -> None:
        """Copy an array to a C-contiguous device array of the same shape and dtype.

        It does not wait for the copy, but of a large array for that of all but the last pieces.
        """

    def free_bytes(self) -> int:
        """Return the size of the largest array that the device can still hold."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def multiply_half(self, queries: Any, targets: Any, products: Any, jobs: np.ndarray) -> None:
        """Multiply blocks of rows in half precision; see `cublas_gemm.multiply_half`."""

    def free_pools(self) -> None:
        """Return unused memory to the device."""

    def communicator_id(self) -> Any:
        """Return the identifier of a new group of devices; see `JointLayouts`."""

    def open_communicator(self, communicator_id: Any, rank: int, n_members: int) -> Communicator:
        """Join a new group of devices; see `JointLayouts`."""


def count_blocks(n_items: int) -> int:
    """Return the number of blocks of a launch over `n_items`: a thread for each item."""
    return max(1, -(-n_items // BLOCK))


def reduction_threads(n_items: int) -> int:
    """Return the number of threads of a launch that writes one partial result per block.

    It is bounded, so that the partial results are few; each thread takes several of many items. All other launches have
    a thread for each item: blocks then run in the order of the items, and what is near each other in it is in the cache
    at the same time.
    """
    return min(n_items, MAX_PARTIALS * BLOCK)
