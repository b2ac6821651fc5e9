"""The runtime of this process."""

from __future__ import annotations

import threading

from nomad_dask.backends.gpu.cuda_runtime import CudaRuntime
from nomad_dask.backends.gpu.runtime import Runtime


class ProcessRuntime:
    """Holds the runtime of a process: its CUDA device, or the runtime that was set instead.

    A process has one CUDA context, so one runtime is shared by the backend, the check for a GPU, and the
    benchmarks. Tests set a runtime that executes the kernels on the host, in worker processes by a Dask preload.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None

    def get(self) -> Runtime:
        """Return the runtime; the first call opens the CUDA device if no other runtime was set.

        Raises
        ------
        ClusterError
            CuPy or a usable device is missing.
        """
        with self._lock:
            if self._runtime is None:
                self._runtime = CudaRuntime()
            return self._runtime

    def set(self, runtime: Runtime | None) -> None:
        """Use another runtime from now on; None restores the CUDA device."""
        with self._lock:
            self._runtime = runtime


PROCESS_RUNTIME = ProcessRuntime()
"""The only instance."""
