"""The choice of the backend, and the backends that a worker keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nomad_dask.backends.base import Backend
from nomad_dask.errors import InputError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

DEVICES = ("auto", "cpu", "gpu")


def check_device(device: str) -> None:
    """Check the name of a device.

    Raises
    ------
    InputError
    """
    if device not in DEVICES:
        raise InputError(f"device={device!r} is not accepted: give one of {', '.join(DEVICES)}.")


def has_joint_layouts(device: str) -> bool:
    """Return whether the backend of a device, ``"cpu"`` or ``"gpu"``, has joint layouts; see `backends.joint`."""
    return device == "gpu"


class BackendCache:
    """The backends of one worker, which are created on first use and kept with their threads."""

    def __init__(self) -> None:
        self._backends: dict[tuple[str, int], Backend] = {}
        self._libraries: ThreadpoolController | None = None

    @contextmanager
    def use(self, device: str, n_threads: int) -> Iterator[Backend]:
        """Yield the backend for a device.

        On the CPU, BLAS is limited to one thread meanwhile: the kernels use threads of their own, and a threaded
        BLAS inside them would oversubscribe the cores.

        Parameters
        ----------
        device : {'cpu', 'gpu'}
        n_threads : int
            Threads of the CPU backend.

        Raises
        ------
        ClusterError
            There is no GPU.
        """
        if device == "gpu":
            yield self._gpu()
            return
        from nomad_dask.backends.cpu.backend import CpuBackend

        key = (device, n_threads)
        if key not in self._backends:
            self._backends[key] = CpuBackend(n_threads)
        with self._blas().limit(limits=1, user_api="blas"):
            yield self._backends[key]

    def _blas(self) -> ThreadpoolController:
        """Return what limits the threads of the BLAS that the backend has loaded: to find it takes milliseconds."""
        if self._libraries is None:
            from threadpoolctl import ThreadpoolController

            self._libraries = ThreadpoolController()
        return self._libraries

    def _gpu(self) -> Backend:
        """Return the backend on the GPU of this process, of which there is one."""
        from nomad_dask.backends.gpu.backend import GpuBackend
        from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME

        key = ("gpu", 0)
        if key not in self._backends:
            self._backends[key] = GpuBackend(PROCESS_RUNTIME.get())
        return self._backends[key]


def load_cpu_kernels() -> None:
    """Load what Numba needs for the first kernel of a process, which takes most of a second."""
    from nomad_dask.backends.cpu.backend import load_kernels

    load_kernels()
