"""Which backend runs on this worker; one is kept a process, with its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nomad_dask.backends.base import Backend
from nomad_dask.errors import InputError

DEVICES = ("auto", "cpu", "gpu")
_kept: dict[tuple[str, int], Backend] = {}


def check_device(device: str) -> None:
    """Refuse what is no device.

    Raises
    ------
    InputError
    """
    if device not in DEVICES:
        raise InputError(f"device={device!r} is not accepted: give one of {', '.join(DEVICES)}.")


@contextmanager
def backend_of_worker(device: str, n_threads: int) -> Iterator[Backend]:
    """Give the backend for `device`, which is ``"cpu"`` or ``"gpu"``: the driver has made up its mind.

    On the CPU, BLAS is held to one thread while it is used: the kernels bring their own threads; a threaded
    BLAS inside them would oversubscribe the cores.

    Raises
    ------
    ClusterError
        There is no GPU here.
    """
    if device == "gpu":
        yield _gpu()
        return
    from threadpoolctl import threadpool_limits

    from nomad_dask.backends.cpu.backend import CpuBackend

    key = (device, n_threads)
    if key not in _kept:
        _kept[key] = CpuBackend(n_threads)
    with threadpool_limits(1, user_api="blas"):
        yield _kept[key]


def _gpu() -> Backend:
    """Return the backend on the GPU of this process, which has one whatever its threads."""
    from nomad_dask.backends.gpu.backend import GpuBackend
    from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME

    key = ("gpu", 0)
    if key not in _kept:
        _kept[key] = GpuBackend(PROCESS_RUNTIME.get())
    return _kept[key]


def load_cpu_kernels() -> None:
    """Load what Numba loads with the first kernel of a process, which takes most of a second."""
    from nomad_dask.backends.cpu.backend import load_kernels

    load_kernels()
