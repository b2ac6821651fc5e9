"""The host in place of the GPU of this process."""

from __future__ import annotations

from collections.abc import Iterator

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
