"""Which backend runs on this worker; one is kept a process, with its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nomad_dask.backends.base import Backend
from nomad_dask.errors import InputError

DEVICES = ("auto", "cpu", "gpu")
_kept: dict[int, Backend] = {}


@contextmanager
def backend_of_worker(device: str, n_threads: int) -> Iterator[Backend]:
    """Give the backend for `device`, with BLAS held to one thread while it is used.

    The kernels bring their own threads; a threaded BLAS inside them would oversubscribe the cores.

    Raises
    ------
    InputError
        `device` is not known, or not to be had here.
    """
    if device == "gpu":
        raise InputError("device='gpu' is not available in this version: give 'cpu' or 'auto'.")
    if device not in DEVICES:
        raise InputError(f"device={device!r} is not accepted: give one of {', '.join(DEVICES)}.")
    from threadpoolctl import threadpool_limits

    from nomad_dask.backends.cpu.backend import CpuBackend

    if n_threads not in _kept:
        _kept[n_threads] = CpuBackend(n_threads)
    with threadpool_limits(1, user_api="blas"):
        yield _kept[n_threads]
