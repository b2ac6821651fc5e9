"""Faults that are planted are found: in small kernels, and in those of the package."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")

from nomad_dask.backends.gpu.epoch_inputs import make_frame
from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.runtime import count_blocks
from nomad_dask.backends.mesh import Mesh
from tests.ptx.encode import Program
from tests.ptx.report import KernelError
from tests.ptx.runtime import compile_programs, run

SEEDS = (0, 1, 2)
seeds = pytest.mark.parametrize("seed", SEEDS)

TEXT = Path(__file__).with_name("faults.cu").read_text()
MESSAGES = {name: message for message, name in re.findall(r"^// (.*)\nKERNEL\((\w+)\)", TEXT, re.MULTILINE)}
T = np.arange(512) % 256
# What the kernels without a fault write.
EXPECTED = {
    "block_barrier": 255 - T,
    "barrier_at_the_end_of_a_loop": 0 * T + 8,
    "warp_barrier": T ^ 1,
    "blocks_write_the_same_value": 0 * T + 7,
    "atomics": 0 * T + 1,
    "own_values": 2 * (T + 1),
    "some_lanes_of_a_warp": np.where(T % 32 < 8, T // 32 * 32 + 7, 0),
}


@pytest.fixture(scope="module")
def small() -> dict[str, Program]:
    return compile_programs("faults.cu", TEXT, 2)


def run_small(program: Program, seed: int) -> tuple[np.ndarray, np.ndarray]:
    out, other = np.zeros(512, np.int32), np.zeros(512, np.int32)
    total = np.zeros(256, np.uint64)
    run(program, 2, [out, other, total, np.int32(0)], seed)
    return out, total


def test_every_small_kernel_is_run(small):
    assert set(small) == set(MESSAGES)
    assert {name for name, message in MESSAGES.items() if message == "sound"} == set(EXPECTED)


@seeds
@pytest.mark.parametrize("name", sorted(MESSAGES.keys() - EXPECTED.keys()))
def test_fault_is_found(small, name, seed):
    with pytest.raises(KernelError, match=f"^{name}: block .*({MESSAGES[name]})"):
        run_small(small[name], seed)


def test_an_access_before_an_aligned_array_is_reported_as_one_to_it(small):
    memory = np.zeros(4096, np.uint8)
    start = -memory.ctypes.data % 256
    out = memory[start : start + 2048].view(np.int32)
    with pytest.raises(KernelError, match=MESSAGES["before"]):
        run(small["before"], 2, [out, np.zeros(512, np.int32), np.zeros(256, np.uint64), np.int32(0)])


@seeds
@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_is_found_where_there_is_no_fault(small, name, seed):
    out, total = run_small(small[name], seed)
    np.testing.assert_array_equal(out, EXPECTED[name])
    assert total[0] == (512 if name == "atomics" else 0)


# ------------------------------------------------------------------------------- kernels of the package


def sum_rows(program: Program, seed: int) -> None:
    n = 700
    run(program, count_blocks(n), [np.ones(n, np.float32), np.int64(n), np.zeros(count_blocks(n))], seed)


def direct(program: Program, seed: int) -> None:
    n, m = 300, 600
    points, charges = (np.random.default_rng(0).random((k, 2)).astype(np.float32) for k in (n, m))
    potential, repulsion = np.zeros(n, np.float32), np.zeros((n, 2), np.float32)
    run(program, count_blocks(n), [points, np.int64(n), charges, None, np.int64(m), potential, repulsion], seed)


def on_a_mesh() -> list[Any]:
    points = np.random.default_rng(0).uniform(-9, 9, (300, 2)).astype(np.float32)
    return [points, np.int64(len(points)), make_frame(Mesh((0.0, 0.0), 1.0, (7, 7)), 1024.0)]


def deposit(program: Program, seed: int) -> None:
    points, n, frame = on_a_mesh()
    run(program, 2, [points, None, n, frame, np.zeros((7, 7), np.int64)], seed)


def read_field(program: Program, seed: int) -> None:
    points, n, frame = on_a_mesh()
    potential, repulsion = np.zeros(len(points), np.float32), np.zeros_like(points)
    run(program, 2, [points, n, frame, np.ones((14, 14), np.float32), potential, repulsion], seed)


def select_columns(program: Program, seed: int) -> None:
    n, m, kept = 20, 90, 40
    products, norms = np.random.default_rng(0).random((n, m)).astype(np.float32), np.zeros(m, np.float32)
    values, columns = np.full((n, kept), np.inf, np.float32), np.full((n, kept), -1, np.int32)
    run(program, 3, [products, norms, np.int64(n), np.int64(m), np.int32(kept), values, columns], seed)


RACE, OUTSIDE = "race: no barrier", "outside of all arrays"
# A launch of a kernel, a text in its source and what replaces it, and what is reported then.
PLANTED: list[tuple[Callable[[Program, int], None], str, str, str]] = [
    (sum_rows, "= value;\n    __syncthreads();", "= value;", f"{RACE}|before it is written"),
    (sum_rows, "parts[threadIdx.x / 32]", "parts[(threadIdx.x + 32) / 32]", OUTSIDE),
    (sum_rows, "i < n; i += grid_stride()) sum +=", "i <= n; i += grid_stride()) sum +=", OUTSIDE),
    (direct, "__syncthreads();\n            if (mine < m) {", "if (mine < m) {", RACE),
    (direct, "base < n; base", "base + threadIdx.x < n; base", "threads that do not come"),
    (direct, "if (i < n) {\n            potential", "{\n            potential", OUTSIDE),
    (deposit, "atomicAdd(at,", "atomicAdd(at + 1,", OUTSIDE),
    (deposit, "atomicAdd(at, static_cast<unsigned long long>(part))", "*at += part", RACE),
    (read_field, "store_point(repulsion, i,", "store_point(repulsion, i + 1,", OUTSIDE),
    (select_columns, "__syncwarp();\n        if (moves", "if (moves", RACE),
    (select_columns, "}\n        __syncwarp();", "}", RACE),
]


@pytest.mark.parametrize(("launch", "old", "new", "message"), PLANTED)
def test_fault_planted_in_a_kernel_of_the_package_is_found(launch, old, new, message):
    path = kernel_files()[launch.__name__]
    source = kernel_source(path)
    assert old in source
    program = compile_programs(path.name, source.replace(old, new), 2)[launch.__name__]
    for seed in SEEDS:
        with pytest.raises(KernelError, match=message):
            launch(program, seed)


@pytest.mark.parametrize("launch", [sum_rows, direct, deposit, read_field, select_columns])
def test_nothing_is_found_in_the_same_launches_otherwise(launch):
    path = kernel_files()[launch.__name__]
    launch(compile_programs(path.name, kernel_source(path), 2)[launch.__name__], 1)
