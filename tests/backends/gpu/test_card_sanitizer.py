"""compute-sanitizer finds no invalid access, race or barrier error in any kernel."""

from __future__ import annotations

import subprocess

import pytest

from nomad_dask.backends.gpu.kernel_files import kernel_files
from tests.helpers.sanitizer import FOUND_ERRORS, find_sanitizer, sanitize

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1500)]

SECONDS = 1200
WRONG = {
    "memcheck": "extern \"C\" __global__ void wrong(float* x) { x[threadIdx.x + 1] = 1.0f; }",
    "racecheck": "extern \"C\" __global__ void wrong(float* x) { __shared__ float y[256]; y[threadIdx.x] = threadIdx.x;"
    " x[threadIdx.x] = y[255 - threadIdx.x]; }",
}  # fmt: skip
LAUNCH_WRONG = (
    "import cupy; cupy.cuda.set_allocator(None); x = cupy.zeros(256, 'f4');"
    "cupy.RawKernel({code!r}, 'wrong')((1,), (256,), (x,)); cupy.cuda.get_current_stream().synchronize()"
)


def sanitized(tool: str, kernels: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python under one of the tools; skip if it is not installed."""
    program = find_sanitizer()
    if program is None:
        pytest.skip("compute-sanitizer is not installed: it comes with the CUDA toolkit")
    return sanitize(program, tool, kernels, list(arguments), SECONDS)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_every_kernel_is_clean(tool):
    done = sanitized(tool, sorted(kernel_files()), "-m", "tests.helpers.every_kernel")
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    assert "all kernels were launched" in done.stdout
    assert "SUMMARY: 0 " in done.stdout


@pytest.mark.parametrize("tool", sorted(WRONG))
def test_an_incorrect_kernel_is_reported(tool):
    done = sanitized(tool, ["wrong"], "-c", LAUNCH_WRONG.format(code=WRONG[tool]))
    assert done.returncode == FOUND_ERRORS, done.stdout[-3000:]
    assert "wrong" in done.stdout
