"""The GPU of this process, or the host in its place, and a worker with a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from tests.helpers.host_runtime import HostRuntime


@pytest.fixture
def process_runtime() -> Iterator[HostRuntime]:
    """Run the kernels of this process on the host for the duration of a test."""
    runtime = HostRuntime()
    PROCESS_RUNTIME.set(runtime)
    yield runtime
    PROCESS_RUNTIME.set(None)


@pytest.fixture(scope="session")
def worker() -> Iterator[Any]:
    """Return a client of one worker process with a GPU, shared by all tests: starting one takes seconds."""
    from tests.helpers.gpu_card import gpu_workers

    with gpu_workers(1) as client:
        yield client
