"""The backends, for tests that all of them must pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from nomad_dask.backends.base import Backend
from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from tests.helpers.host_runtime import HostRuntime

GPU_BACKENDS = ["gpu-host", pytest.param("gpu-card", marks=pytest.mark.gpu)]


def open_backend(name: str) -> Backend:
    """Return the CPU backend, or the GPU backend with its kernels on the host or on a card."""
    if name == "cpu":
        return CpuBackend(2)
    return GpuBackend(HostRuntime() if name == "gpu-host" else PROCESS_RUNTIME.get())


@pytest.fixture(scope="module", params=["cpu", *GPU_BACKENDS])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend."""
    with closing(open_backend(request.param)) as opened:
        yield opened


@pytest.fixture(scope="module", params=GPU_BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The GPU backend, for comparisons with the CPU's."""
    with closing(open_backend(request.param)) as opened:
        yield opened


@pytest.fixture(scope="module")
def cpu_backend() -> Iterator[Backend]:
    """The CPU backend."""
    with closing(open_backend("cpu")) as opened:
        yield opened
