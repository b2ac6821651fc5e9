"""The interface to a device: structs, kernel files, memory, and errors without a GPU."""

import importlib.util
import math
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.gpu import runtime as runtime_module
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.direct_sum import DirectSum, prefers_direct_sum
from nomad_dask.backends.gpu.epoch_inputs import FRAME, NUMBERS, fixed_point_scale, make_frame
from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.layout import GpuShardLayout
from nomad_dask.backends.gpu.mesh_field import MeshField
from nomad_dask.backends.gpu.mesh_levels import LEVELS
from nomad_dask.backends.gpu.oom import translate_oom
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.gpu.readback import Readback
from nomad_dask.backends.gpu.runtime import BLOCK, MAX_PARTIALS, count_blocks, reduction_threads
from nomad_dask.backends.memory_model import layout_device_bytes, mesh_device_bytes
from nomad_dask.backends.mesh import Mesh, choose_mesh
from nomad_dask.backends.select import BackendCache
from nomad_dask.errors import ClusterError, NomadError, ResourceError
from nomad_dask.params import Params
from tests.backends.gpu.test_layout import STEP, graph_of, remote_of, start
from tests.helpers import host_runtime
from tests.helpers.gpu_card import near_graph, with_codes
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
KERNELS = Path(runtime_module.__file__).with_name("kernels")


@pytest.mark.parametrize(
    ("struct", "dtype", "file"),
    [("Frame", FRAME, "common.cuh"), ("Numbers", NUMBERS, "common.cuh"), ("Levels", LEVELS, "levels.cu")],
)
def test_structs_have_the_memory_layout_of_the_kernels(struct, dtype, file, tmp_path):
    prints = "".join(
        f'std::printf("%zu %zu\\n", offsetof({struct}, {name}), sizeof({struct}::{name}));' for name in dtype.names
    )
    program = (
        f'#include "{Path(host_runtime.__file__).with_name("cuda_shim.h")}"\n#include "{file}"\n'
        "#include <cstddef>\n#include <cstdio>\n"
        f'int main() {{ std::printf("%zu %zu\\n", sizeof({struct}), alignof({struct})); {prints} }}\n'
    )
    binary = tmp_path / "sizes"
    command = ["g++", "-std=c++17", "-DDIM=2", f"-I{KERNELS}", "-x", "c++", "-", "-o", str(binary)]
    subprocess.run(command, input=program, text=True, check=True)
    printed = subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split("\n")
    expected = [f"{dtype.itemsize} {dtype.alignment}"]
    expected += [f"{dtype.fields[name][1]} {dtype.fields[name][0].itemsize}" for name in dtype.names]
    assert printed[:-1] == expected


def test_every_kernel_is_in_its_file():
    found = kernel_files()
    assert {"deposit", "step", "move", "total", "patch_moments", "repel_by_means"} <= set(found)
    declared = sum(path.read_text().count("__global__ ") for path in KERNELS.glob("*.cu"))
    assert len(found) == declared
    for name, path in found.items():
        assert f" {name}(" in path.read_text()


def test_headers_are_inlined():
    for path in set(kernel_files().values()):
        text = kernel_source(path)
        assert '#include "' not in text
        assert "struct Frame {" in text


@given(st.integers(0, 1 << 40))
def test_blocks_cover_the_items_and_partial_results_are_few(n):
    assert count_blocks(n) * BLOCK >= n
    assert (count_blocks(n) - 1) * BLOCK < max(n, 1)
    assert 1 <= count_blocks(reduction_threads(n)) <= MAX_PARTIALS
    assert count_blocks(reduction_threads(n)) in (count_blocks(n), MAX_PARTIALS)


def test_the_backend_uses_the_runtime_of_the_process(process_runtime):
    assert PROCESS_RUNTIME.get() is process_runtime
    with BackendCache().use("gpu", 1) as backend:
        assert backend.runtime is process_runtime


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_the_error_says_what_to_install():
    with pytest.raises(ClusterError, match=r"CuPy.*install.*device='cpu'"):
        PROCESS_RUNTIME.get()


def test_out_of_memory_errors_report_bytes():
    small = HostRuntime(free=1000)
    message = r"a shard.*5,000 bytes.*1,000 bytes are free, 4,000 .*missing.*n_shards"
    with pytest.raises(ResourceError, match=message), translate_oom(small, "a shard"):
        raise MemoryError("Out of memory allocating 5,000 bytes (allocated so far: 10 bytes).")
    with pytest.raises(ResourceError, match=message), translate_oom(small, "a shard"):
        raise MemoryError(
            "std::bad_alloc: out_of_memory: CUDA error (failed to allocate 5000 bytes) at: "
            "cuda_async_view_memory_resource.cpp:73: cudaErrorMemoryAllocation out of memory"
        )
    with pytest.raises(ResourceError, match="not contiguous"), translate_oom(small, "a shard"):
        raise MemoryError
    with pytest.raises(NomadError, match="message before"), translate_oom(RUNTIME, "a shard"):
        raise ResourceError("message before")


def test_a_layout_that_does_not_fit_is_refused(monkeypatch):
    graph = graph_of(60, 2)
    one = GpuBackend(RUNTIME).create_layout(graph, Params(), 60)
    one.load(*start(60, 2))

    def full(self, shape):
        raise MemoryError(f"Out of memory allocating {8 << 40:,} bytes")

    monkeypatch.setattr(HostRuntime, "transform", full)
    monkeypatch.setattr("nomad_dask.backends.gpu.field_repulsion.prefers_direct_sum", lambda *_: False)
    with pytest.raises(ResourceError, match="shard of 60 rows"):
        one.run_epoch(STEP, remote_of(graph, 2, 0))


def test_kernels_of_mesh_and_structs_agree():
    """The potential of a charge at its own position is K(0), about 1."""
    mesh = choose_mesh(np.zeros(2), np.array([30.0, 20.0]), 0.2, 1 << 20)
    points = np.array([[10.0, 10.0], [10.0, 14.0]], np.float32)
    frame = make_frame(mesh, fixed_point_scale(2)).view(np.uint8)
    field = MeshField(2, RUNTIME, frame)
    field.set_mesh(mesh)
    version = field.version
    field.set_mesh(mesh)
    assert field.version == version
    field.solve(points, None, points[:0], points[:0, 0])
    potential, repulsion, total = np.empty(2, np.float32), np.empty((2, 2), np.float32), np.empty(1)
    field.read(points, potential, repulsion)
    field.sum_potential(field.charges[0], -2.0, total)
    np.testing.assert_allclose(potential, 1 + 1 / 17, rtol=2e-3)
    np.testing.assert_allclose(repulsion[:, 1], [-4 / 17**2, 4 / 17**2], rtol=1e-2)
    assert total[0] == pytest.approx(potential.sum() - 2, rel=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_direct_sum_of_own_and_remote_charges(dim):
    rng = np.random.default_rng(0)
    points, remote = rng.normal(size=(2, 40, dim)).astype(np.float32)
    weights, others = rng.random((2, 40)).astype(np.float32)
    potential, repulsion = np.empty(40, np.float32), np.empty((40, dim), np.float32)
    for own in (None, weights):
        DirectSum(dim, RUNTIME).evaluate(points, own, remote, others, potential, repulsion)
        charges = np.concatenate([points, remote]).astype(np.float64)
        share = np.concatenate([np.ones(40) if own is None else own, others])
        apart = points[:, None] - charges
        q = 1 / (1 + (apart**2).sum(-1))
        np.testing.assert_allclose(potential, (share * q).sum(1), rtol=1e-5)
        np.testing.assert_allclose(repulsion, ((share * q * q)[..., None] * apart).sum(1), rtol=1e-3, atol=1e-5)


@given(st.floats(1e-9, 1e12))
def test_charges_in_fixed_point_neither_overflow_nor_vanish(charge):
    scale = fixed_point_scale(charge)
    assert math.frexp(scale)[0] == 0.5
    assert 2.0**59 < charge * scale <= 2.0**61
    assert np.isfinite(np.float32(scale))
    assert np.float32(1 / scale) > 0


def test_frames_of_two_and_three_dimensions():
    frame = make_frame(Mesh((-1.0, 2.0), 0.5, (10, 20)), 8.0)[0]
    assert frame["stride"].tolist() == [20, 1, 0]
    assert frame["padded_stride"].tolist() == [40, 1, 0]
    assert frame["inverse"] == 2
    assert frame["scale"] * frame["inverse_scale"] == 1
    frame = make_frame(Mesh((-1.0, 2.0, 0.0), 0.5, (10, 20, 30)), 8.0)[0]
    assert frame["stride"].tolist() == [600, 30, 1]
    assert frame["padded_stride"].tolist() == [2400, 60, 1]
    np.testing.assert_allclose(frame["upper"], [7.999, 17.999, 27.999])


def test_a_sparse_map_of_three_dimensions_is_summed_directly():
    assert prefers_direct_sum(1000, 1000, 1 << 12)
    assert not prefers_direct_sum(70_000, 70_000, 224 * 224)
    assert prefers_direct_sum(20_000, 20_000, 1 << 27)
    assert not prefers_direct_sum(1_000_000, 1_000_000, 1 << 27)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([("f4", (3, 2)), ("f8", (1,)), ("i4", (0, 2)), ("f4", (5,))]), min_size=1))
def test_a_readback_returns_what_was_written(kinds):
    report = Readback(np, {str(i): kind for i, kind in enumerate(kinds)})
    for i, array in enumerate(report.on_device.values()):
        assert array.ctypes.data % 16 == report.buffer.ctypes.data % 16
        array[...] = i + 1
    for i, (array, (kind, shape)) in enumerate(zip(report.split(report.buffer.copy()).values(), kinds, strict=True)):
        assert array.dtype == kind
        assert array.shape == shape
        assert (array == i + 1).all()


@pytest.mark.parametrize("n_far", [0, 2000])
def test_device_bytes_are_about_what_a_layout_takes(n_far, monkeypatch):
    monkeypatch.setattr("nomad_dask.backends.gpu.field_repulsion.prefers_direct_sum", lambda *_: False)
    n = 2000
    graph = with_codes(graph_of(n, 2, n_far=n_far, first_patch=n_far))
    positions, velocity = start(n, 2, spread=80.0)
    remote = remote_of(graph, 2, n_far)
    tracemalloc.start()
    one = GpuShardLayout(graph, Params(), n, RUNTIME)
    one.load(positions, velocity)
    one.run_epoch(STEP, remote)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    n_nodes = math.prod(one._step._repulsion.choose_mesh().shape)
    edges = len(graph.indices) + len(graph.cross_patches)
    expected = layout_device_bytes(n, edges, n_nodes, len(graph.patch_counts) + n_far)
    assert n_nodes > 1 << 15
    assert mesh_device_bytes(n_nodes, 2) < expected
    assert 0.4 * expected <= taken <= 1.1 * expected


def test_device_bytes_count_what_one_normalizer_per_point_takes_more(monkeypatch):
    monkeypatch.setattr("nomad_dask.backends.gpu.field_repulsion.prefers_direct_sum", lambda *_: False)
    n = 8000
    graph, (positions, velocity) = near_graph(n, n_neighbors=20), start(n, 2, spread=4.0)
    taken = {}
    for normalization in ("global", "point"):
        edges = with_codes(graph) if normalization == "global" else graph
        tracemalloc.start()
        one = GpuShardLayout(edges, Params(normalization=normalization), n, RUNTIME)
        one.load(positions, velocity)
        one.run_epoch(replace(STEP, measure_loss=False), remote_of(graph, 2, 0))
        taken[normalization] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del one
    sizes = n, len(graph.indices), 0, 0
    expected = layout_device_bytes(*sizes, per_point=True) - layout_device_bytes(*sizes)
    assert 0.8 * expected <= taken["point"] - taken["global"] <= 1.05 * expected


def test_optional_libraries_are_not_imported_with_the_module():
    text = Path(runtime_module.__file__).read_text()
    assert not any(line.startswith(("import cupy", "from cupy")) for line in text.splitlines())
