"""Every kernel of the package as PTX: no faults, and the results of the host build, in any order of threads."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.gpu import field_repulsion
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.epoch_inputs import make_frame
from nomad_dask.backends.gpu.kernel_files import kernel_files
from nomad_dask.backends.mesh import Mesh
from nomad_dask.backends.rank_weights import weigh_by_rank
from tests.helpers import every_kernel
from tests.helpers.host_runtime import HostRuntime
from tests.ptx.report import KernelError
from tests.ptx.runtime import PtxRuntime

SEEDS = (1, 2)
LAUNCHES = 2
"""Launches of a kernel that are checked, of each combination of null pointers."""
UNIT = 3e-6
KERNELS = [(name, dim) for name, path in kernel_files().items() for dim in every_kernel.dims_of(path)]


@dataclass(frozen=True)
class ComparingRuntime(HostRuntime):
    """The host build, which repeats launches with PTX and keeps what is wrong with each kernel."""

    wrong: dict[tuple[str, int], list[str]] = field(default_factory=lambda: defaultdict(list))
    n_launches: Counter[Any] = field(default_factory=Counter)

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        before = [a.copy() for a in arrays]
        super().launch(kernel, dim, n_items, *args)
        pattern = (kernel, dim, tuple(a is None for a in args))
        self.n_launches[pattern] += 1
        if self.n_launches[pattern] > LAUNCHES:
            return
        expected = [a.copy() for a in arrays]
        for seed in SEEDS:
            # In place: arrays may be parts of others, and not aligned better than they must be.
            for array, old in zip(arrays, before, strict=True):
                array[...] = old
            try:
                PtxRuntime(seed).launch(kernel, dim, n_items, *args)
                for array, wanted in zip(arrays, expected, strict=True):
                    assert_same(array, wanted)
            except (KernelError, AssertionError) as error:
                self.wrong[kernel, dim].append(f"seed {seed}: {error}")
        for array, wanted in zip(arrays, expected, strict=True):
            array[...] = wanted


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Compare to float32 rounding; what is a sum of terms of both signs, to that of the largest number."""
    if got.dtype == np.uint16:
        np.testing.assert_allclose(got.view(np.float16), wanted.view(np.float16), rtol=1e-3, atol=1e-6)
    elif got.dtype.kind in "fc" or got.dtype == np.int64:  # of 64 bits are charges in fixed point, and keys
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        np.testing.assert_allclose(got, wanted, rtol=UNIT, atol=UNIT * float(largest))
    else:
        np.testing.assert_array_equal(got, wanted)


@pytest.fixture(scope="module")
def compared() -> ComparingRuntime:
    runtime = ComparingRuntime()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_repulsion, "MAX_MESH_NODES", 1 << 13)
        every_kernel.launch_all(runtime)
    return runtime


@pytest.mark.parametrize(("kernel", "dim"), KERNELS)
def test_kernel_has_no_fault_and_the_results_of_the_host_build(compared, kernel, dim):
    assert any(pattern[:2] == (kernel, dim) for pattern in compared.n_launches), f"every_kernel.py launches no {kernel}"
    assert compared.wrong[kernel, dim] == []


@pytest.mark.parametrize("size", [32_769, 70_000, 262_145])
def test_the_last_node_of_a_long_mesh_is_within(size):
    mesh = Mesh((0.0, 0.0), 1.0, (size, 4))
    points = np.array([[1e9, 1.5]], np.float32)
    frame, one = make_frame(mesh, 1024.0), np.int64(1)
    fixed = np.zeros(mesh.shape, np.int64)
    PtxRuntime().launch("deposit", 2, 1, points, None, one, frame, fixed)
    assert fixed[-4:].sum() == 1024
    padded = np.ones((2 * size, 8), np.float32)
    potential, repulsion = np.zeros(1, np.float32), np.zeros((1, 2), np.float32)
    PtxRuntime().launch("read_field", 2, 1, points, one, frame, padded, potential, repulsion)
    np.testing.assert_allclose(potential, 1, rtol=1e-6)


@pytest.mark.parametrize("k", [5, 40])
def test_a_graph_by_ptx_is_that_of_the_cpu(k):
    """To the bit, as keys are, of which the comparison above sees only the highest bits."""
    rng = np.random.default_rng(k)
    ids = np.array([rng.choice(np.delete(np.arange(60), i), k, replace=False) for i in range(55)]).astype(np.uint32)
    lists, ranges = weigh_by_rank(ids, "log"), [(0, 30), (30, 55)]
    got = GpuBackend(PtxRuntime(1)).symmetric_graph(lists, ranges, None)
    for ours, theirs in zip(got, CpuBackend(1).symmetric_graph(lists, ranges, None), strict=True):
        np.testing.assert_array_equal(ours.indptr, theirs.indptr)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.values, theirs.values)
