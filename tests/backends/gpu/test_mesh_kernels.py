"""The mesh kernels against splines of SciPy in float64, brute force, and the CPU backend."""

import math
import pickle

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.gpu.epoch_inputs import fixed_point_scale, make_frame
from nomad_dask.backends.gpu.mesh_levels import padded_shape
from nomad_dask.backends.gpu.runtime import count_blocks, reduction_threads
from nomad_dask.backends.mesh import Mesh, kernel_transform
from nomad_dask.utils.threads import Threads
from tests.helpers import host_runtime
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()
SHUFFLED = HostRuntime(seed=7)
SPLINE = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
SLOPE = SPLINE.derivative()
MESHES = {2: Mesh((-6.0, -5.0), 0.5, (27, 21)), 3: Mesh((-6.0, -5.0, -4.0), 0.8, (16, 14, 12))}

dims = pytest.mark.parametrize("dim", [2, 3])
runtimes = pytest.mark.parametrize("runtime", [RUNTIME, SHUFFLED], ids=["in order", "shuffled"])


def cloud(n, dim, seed=0, width=1.5):
    return (np.random.default_rng(seed).normal(size=(n, dim)) * width).astype(np.float32)


def far_flung(n, dim):
    points = cloud(n, dim)
    points[::7] *= 1000
    return points


def basis(mesh, points, derivative_axis=None):
    """Value (n, nodes) of each node's spline at each point, or its derivative along one axis, in float64."""
    product = np.ones((len(points), 1))
    for axis, size in enumerate(mesh.shape):
        units = (points[:, axis].astype(np.float64) - mesh.origin[axis]) / mesh.spacing
        units = np.clip(units, 1, size - 2.001)
        apart = units[:, None] - np.arange(size)
        one = np.nan_to_num(SLOPE(apart)) / mesh.spacing if axis == derivative_axis else np.nan_to_num(SPLINE(apart))
        product = (product[:, :, None] * one[:, None, :]).reshape(len(points), -1)
    return product


def deposit(runtime, mesh, points, weights, scale):
    fixed = np.zeros(mesh.shape, np.int64)
    dim, n = len(mesh.shape), len(points)
    runtime.launch("deposit", dim, n, points, weights, np.int64(n), make_frame(mesh, scale), fixed)
    return fixed


def read(runtime, mesh, coefficients, points):
    padded = np.zeros(padded_shape(mesh.shape), np.float32)
    padded[tuple(slice(s) for s in mesh.shape)] = coefficients
    dim, n = len(mesh.shape), len(points)
    potential, repulsion = np.full(n, np.nan, np.float32), np.full((n, dim), np.nan, np.float32)
    runtime.launch("read_field", dim, n, points, np.int64(n), make_frame(mesh, 1.0), padded, potential, repulsion)
    return potential, repulsion


def add_up(runtime, partials, offset):
    out = np.zeros(1)
    runtime.launch("total", 2, 1, partials, np.int64(len(partials)), np.float64(offset), out)
    return float(out[0])


def mesh_z(runtime, mesh, fixed, scale, coefficients, offset=0.0):
    padded = np.zeros(padded_shape(mesh.shape), np.float32)
    padded[tuple(slice(s) for s in mesh.shape)] = coefficients
    partials = np.full(count_blocks(fixed.size), np.nan)
    n_nodes = np.int64(fixed.size)
    runtime.launch("mesh_z", len(mesh.shape), fixed.size, fixed, n_nodes, make_frame(mesh, scale), padded, partials)
    return add_up(runtime, partials, offset)


def brute_force(points, charges, weights):
    apart = points[:, None].astype(np.float64) - charges[None].astype(np.float64)
    q = 1 / (1 + (apart**2).sum(axis=2))
    return (weights * q).sum(axis=1), ((weights * q**2)[:, :, None] * apart).sum(axis=1)


# ------------------------------------------------------------------------------------------- deposit


@dims
@runtimes
@pytest.mark.parametrize("make", [cloud, far_flung])
@pytest.mark.parametrize("weighted", [False, True])
def test_deposit_is_the_splines_sum(dim, runtime, make, weighted):
    mesh, points = MESHES[dim], make(700, dim)
    weights = np.random.default_rng(1).exponential(size=700).astype(np.float32) if weighted else None
    scale = fixed_point_scale(700 if weights is None else float(weights.sum()))
    fixed = deposit(runtime, mesh, points, weights, scale)
    expected = (np.ones(700) if weights is None else weights.astype(np.float64)) @ basis(mesh, points)
    # Positions in mesh units are float32: up to 27, so about 1e-6 apart.
    np.testing.assert_allclose(fixed.ravel() / scale, expected, atol=2e-5)


@dims
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 600), shuffle=st.integers(1, 2**32))
def test_deposit_conserves_mass_and_knows_no_order(dim, seed, n, shuffle):
    random, mesh = np.random.default_rng(seed), MESHES[dim]
    points = (random.standard_cauchy((n, dim)) * 3).astype(np.float32)
    weights = random.exponential(size=n).astype(np.float32)
    scale = fixed_point_scale(float(weights.sum()) if n else 1.0)
    fixed = deposit(RUNTIME, mesh, points, weights, scale)
    assert fixed.sum() == np.rint(weights * np.float32(scale)).astype(np.int64).sum()
    order = random.permutation(n)
    again = deposit(HostRuntime(seed=shuffle), mesh, points[order], weights[order], scale)
    np.testing.assert_array_equal(again, fixed)


@dims
def test_unit_charges_conserve_the_number_of_points(dim):
    points = far_flung(1000, dim)
    fixed = deposit(RUNTIME, MESHES[dim], points, None, 2.0**31)
    assert fixed.sum() == 1000 * 2**31


@dims
def test_one_point_lies_on_its_stencil_only(dim):
    mesh = MESHES[dim]
    point = np.asarray([mesh.origin], np.float32) + np.float32(5 * mesh.spacing)
    fixed = deposit(RUNTIME, mesh, point, None, 2.0**40)
    expected = np.zeros(mesh.shape)
    line = np.array([1, 4, 1]) / 6
    expected[(slice(4, 7),) * dim] = np.multiply.outer(line, line) if dim == 2 else np.einsum("i,j,k", line, line, line)
    np.testing.assert_allclose(fixed / 2.0**40, expected, atol=1e-6)


@dims
def test_two_thousand_million_charges_fit_and_one_is_still_seen(dim):
    mesh, n = MESHES[dim], 2_000_000_000
    scale = fixed_point_scale(2 * n)
    points = np.zeros((2, dim), np.float32) + np.float32(0.1)
    points[1] += np.float32(2)
    fixed = deposit(RUNTIME, mesh, points, np.array([n, 1], np.float32), scale)
    assert (fixed >= 0).all()
    assert fixed.sum() == (n + 1) * int(scale)
    one = deposit(RUNTIME, mesh, points[1:], None, scale)
    np.testing.assert_allclose(one.ravel() / scale, basis(mesh, points[1:])[0], atol=2e-6)
    # Charges of others are added to the own ones before they become floats.
    padded = np.zeros(padded_shape(mesh.shape), np.float32)
    RUNTIME.launch("charges", dim, fixed.size, fixed, fixed, np.int64(fixed.size), make_frame(mesh, scale), padded)
    np.testing.assert_allclose(padded.sum(dtype=np.float64), 2 * (n + 1), rtol=1e-6)


# -------------------------------------------------------------------------------- charges and spectrum


@dims
@runtimes
@pytest.mark.parametrize("with_remote", [False, True])
def test_charges_fill_the_corner_and_nothing_else(dim, runtime, with_remote):
    mesh, random = MESHES[dim], np.random.default_rng(3)
    own, remote = random.integers(-(2**40), 2**40, (2, *mesh.shape))
    padded = np.full(padded_shape(mesh.shape), np.nan, np.float32)
    n_nodes = np.int64(own.size)
    runtime.launch(
        "charges", dim, own.size, own, remote if with_remote else None, n_nodes, make_frame(mesh, 2.0**30), padded
    )
    corner = tuple(slice(s) for s in mesh.shape)
    expected = (own + remote if with_remote else own).astype(np.float32) * np.float32(2.0**-30)
    np.testing.assert_array_equal(padded[corner], expected)
    padded[corner] = np.nan
    assert np.isnan(padded).all()


@dims
def test_multiply(dim):
    random = np.random.default_rng(4)
    spectrum = (random.normal(size=(70, 33)) + 1j * random.normal(size=(70, 33))).astype(np.complex64)
    factor = random.normal(size=(70, 33)).astype(np.float32)
    expected = spectrum * factor
    RUNTIME.launch("multiply", dim, spectrum.size, spectrum, factor, np.int64(spectrum.size))
    np.testing.assert_array_equal(spectrum, expected)


# ------------------------------------------------------------------------------------ reading and sums


@dims
@runtimes
@pytest.mark.parametrize("make", [cloud, far_flung])
def test_read_field_is_the_spline_and_its_gradient(dim, runtime, make):
    mesh, points = MESHES[dim], make(500, dim)
    coefficients = np.random.default_rng(5).normal(size=mesh.shape).astype(np.float32)
    potential, repulsion = read(runtime, mesh, coefficients, points)
    flat = coefficients.astype(np.float64).ravel()
    np.testing.assert_allclose(potential, basis(mesh, points) @ flat, atol=2e-5)
    for axis in range(dim):
        # Held points keep the gradient at the edge, as on the CPU.
        np.testing.assert_allclose(repulsion[:, axis], -0.5 * (basis(mesh, points, axis) @ flat), atol=5e-5)


@dims
@runtimes
@pytest.mark.parametrize("n", [1, 5, 3000])
def test_mesh_z_is_the_sum_of_the_potential_at_the_points(dim, runtime, n):
    mesh, points = MESHES[dim], far_flung(n, dim)
    scale = fixed_point_scale(n)
    coefficients = (1 + np.random.default_rng(6).random(mesh.shape)).astype(np.float32)
    fixed = deposit(runtime, mesh, points, None, scale)
    z = mesh_z(runtime, mesh, fixed, scale, coefficients, offset=-0.25 * n)
    potential, _ = read(runtime, mesh, coefficients, points)
    assert z == pytest.approx(potential.sum(dtype=np.float64) - 0.25 * n, rel=1e-6)
    assert z == pytest.approx(
        (basis(mesh, points) @ coefficients.ravel().astype(np.float64)).sum() - 0.25 * n, rel=1e-6
    )


@dims
def test_sums_are_the_same_bits_in_any_order_of_blocks(dim):
    mesh, points = MESHES[dim], cloud(3000, dim)
    coefficients = np.random.default_rng(6).random(mesh.shape).astype(np.float32)
    fixed = deposit(RUNTIME, mesh, points, None, 2.0**40)
    values = np.random.default_rng(7).normal(size=9999).astype(np.float32)
    found = set()
    for seed in range(6):
        runtime = HostRuntime(seed=seed)
        partials = np.full(count_blocks(len(values)), np.nan)
        runtime.launch("sum_rows", dim, len(values), values, np.int64(len(values)), partials)
        found.add((mesh_z(runtime, mesh, fixed, 2.0**40, coefficients), add_up(runtime, partials, 1000.0)))
    assert len(found) == 1
    assert found.pop()[1] == pytest.approx(1000 + values.sum(dtype=np.float64), rel=1e-12)


def test_total_has_a_floor_and_takes_any_number_of_partials():
    assert add_up(RUNTIME, np.array([3.0, -5.0]), 1.0) == 1e-9
    assert add_up(SHUFFLED, np.zeros(0), 2.0) == 2.0
    assert add_up(SHUFFLED, np.full(4096, 0.1), 0.0) == pytest.approx(409.6, rel=1e-13)


def test_grids_smaller_than_the_rows_cover_them_all():
    n = 4096 * 256 + 77
    values = np.random.default_rng(8).random(n).astype(np.float32)
    n_threads = reduction_threads(n)
    partials = np.full(count_blocks(n_threads), np.nan)
    RUNTIME.launch("sum_rows", 2, n_threads, values, np.int64(n), partials)
    assert n_threads < n
    assert partials.sum() == pytest.approx(values.sum(dtype=np.float64), rel=1e-12)


# ------------------------------------------------------------------------------------------ the whole


def whole_field(runtime, mesh, points, weights, remote, remote_weights):
    dim = len(mesh.shape)
    charge = (len(points) if weights is None else float(weights.sum())) + float(remote_weights.sum())
    scale = fixed_point_scale(charge)
    own = deposit(runtime, mesh, points, weights, scale)
    others = deposit(runtime, mesh, remote, remote_weights, scale) if len(remote) else None
    transform = runtime.transform(padded_shape(mesh.shape))
    runtime.launch("charges", dim, own.size, own, others, np.int64(own.size), make_frame(mesh, scale), transform.real)
    transform.forward()
    kernel = kernel_transform(padded_shape(mesh.shape), mesh.spacing) / np.float32(transform.real.size)
    runtime.launch("multiply", dim, kernel.size, transform.spectrum, kernel, np.int64(kernel.size))
    transform.inverse()
    coefficients = transform.potential[tuple(slice(s) for s in mesh.shape)]
    return own, scale, coefficients


@dims
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_remote", [0, 40])
def test_whole_field_is_that_of_the_cpu_and_of_brute_force(dim, weighted, n_remote):
    # All points lie within, as brute force knows no edge at which points are held; and the mesh is half as
    # wide as the method's, which leaves 1/16 of its error.
    n, mesh = 1500, Mesh((-6.5,) * dim, 0.25, (53,) * dim)
    points, random = cloud(n, dim, width=1.2), np.random.default_rng(9)
    weights = random.exponential(size=n).astype(np.float32) if weighted else None
    remote, remote_weights = cloud(n_remote, dim, seed=10), (10 * random.random(n_remote)).astype(np.float32)
    own, scale, coefficients = whole_field(RUNTIME, mesh, points, weights, remote, remote_weights)
    potential, repulsion = read(RUNTIME, mesh, coefficients, points)

    field = Field(dim, mesh.spacing, 1 << 20, Threads(1))
    on_cpu = field.solve(mesh, points, np.empty(0, np.float32) if weights is None else weights, remote, remote_weights)
    cpu_potential, cpu_gradient = np.empty(n, np.float32), np.empty((n, dim), np.float32)
    z = field.read(mesh, on_cpu, points, cpu_potential, cpu_gradient)
    np.testing.assert_allclose(potential, cpu_potential, rtol=1e-5)
    np.testing.assert_allclose(repulsion, -0.5 * cpu_gradient, atol=1e-5 * np.abs(cpu_gradient).max())
    if weights is None:
        assert mesh_z(RUNTIME, mesh, own, scale, coefficients) == pytest.approx(z, rel=1e-6)

    charges = np.concatenate([points, remote])
    all_weights = np.concatenate([np.ones(n) if weights is None else weights, remote_weights])
    exact_potential, exact_repulsion = brute_force(points, charges, all_weights)
    np.testing.assert_allclose(potential, exact_potential, rtol=2e-4)
    np.testing.assert_allclose(repulsion, exact_repulsion, atol=1e-3 * np.abs(exact_repulsion).max())


def test_transform_is_a_pair():
    transform = RUNTIME.transform((12, 10))
    transform.real[:5, :4] = np.random.default_rng(11).random((5, 4))
    transform.forward()
    np.testing.assert_allclose(transform.spectrum, scipy.fft.rfftn(transform.real), atol=1e-5)
    transform.inverse()
    np.testing.assert_allclose(transform.potential / 120, transform.real, atol=1e-6)


# ------------------------------------------------------------------------------------- direct and watch


@dims
@runtimes
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 256), (300, 700), (513, 0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_direct_is_brute_force(dim, runtime, n, m, weighted):
    points, charges = cloud(n, dim), cloud(m, dim, seed=12)
    weights = np.random.default_rng(13).random(m).astype(np.float32) if weighted else None
    potential, repulsion = np.full(n, np.nan, np.float32), np.full((n, dim), np.nan, np.float32)
    runtime.launch("direct", dim, n, points, np.int64(n), charges, weights, np.int64(m), potential, repulsion)
    expected, push = brute_force(points, charges, np.ones(m) if weights is None else weights)
    np.testing.assert_allclose(potential, expected, rtol=2e-6)
    np.testing.assert_allclose(repulsion, push, atol=2e-6 * max(1, m))


@dims
@runtimes
@pytest.mark.parametrize(("n", "step"), [(1, 1), (2, 3), (1000, 7), (1024, 1)])
def test_watch_takes_a_sample_and_the_box(dim, runtime, n, step):
    points = cloud(n, dim)
    sample = np.full((math.ceil(n / step), dim), np.nan, np.float32)
    box = np.full((count_blocks(n), 2, dim), np.nan, np.float32)
    runtime.launch("watch", dim, n, points, np.int64(n), np.int64(step), sample, box)
    np.testing.assert_array_equal(sample, points[::step])
    np.testing.assert_array_equal(box[:, 0].min(axis=0), points.min(axis=0))
    np.testing.assert_array_equal(box[:, 1].max(axis=0), points.max(axis=0))
    for block in range(count_blocks(n)):
        np.testing.assert_array_equal(box[block, 0], points[block * 256 : (block + 1) * 256].min(axis=0))


# ----------------------------------------------------------------------------------------- the runtime


def test_wrong_arguments_are_named():
    partials, out = np.zeros(3), np.zeros(1)
    with pytest.raises(RuntimeError, match="total: takes 4 arguments, got 3"):
        RUNTIME.launch("total", 2, 1, partials, np.int64(3), out)
    with pytest.raises(RuntimeError, match="total: argument 2 is a scalar of another type"):
        RUNTIME.launch("total", 2, 1, partials, np.int32(3), np.float64(0), out)
    with pytest.raises(RuntimeError, match="total: argument 1 is an array of another type"):
        RUNTIME.launch("total", 2, 1, partials.astype(np.float32), np.int64(3), np.float64(0), out)
    with pytest.raises(RuntimeError, match="total: argument 4 is a scalar, but"):
        RUNTIME.launch("total", 2, 1, partials, np.int64(3), np.float64(0), np.float64(0))
    with pytest.raises(TypeError, match="total: argument 2 is a int"):
        RUNTIME.launch("total", 2, 1, partials, 3, np.float64(0), out)
    with pytest.raises(TypeError, match="total: argument 1 is not contiguous"):
        RUNTIME.launch("total", 2, 1, partials[::2], np.int64(2), np.float64(0), out)
    with pytest.raises(ValueError, match="no kernel is named nothing"):
        RUNTIME.launch("nothing", 2, 1)


def test_runtime_travels():
    assert pickle.loads(pickle.dumps(SHUFFLED)) == SHUFFLED


def run_text(monkeypatch, tmp_path, body, runtime=RUNTIME):
    """Run a kernel ``probe(long* out)`` on one block; return the 256 numbers it leaves."""
    path = tmp_path / "probe.cu"
    path.write_text('extern "C" __global__ void probe(long* out) {\n' + body + "\n}\n")
    monkeypatch.setattr(host_runtime, "kernel_files", lambda: {"probe": path})
    out = np.full(256, -1, np.int64)
    runtime.launch("probe", 2, 1, out)
    return out


@runtimes
def test_barriers_and_warps_do_as_cuda_does(monkeypatch, tmp_path, runtime):
    # Groups of 8 lanes turn t, t + 1, .. times, then the warp meets, then the block.
    body = """
    __shared__ long kept[256];
    const int t = threadIdx.x, lane = t % 32;
    const unsigned group = 0xffu << (lane & 24);
    long sum = 0;
    for (int turn = 0; turn <= lane / 8; ++turn) {
        long value = t + turn;
        for (int apart = 4; apart > 0; apart /= 2) value += __shfl_xor_sync(group, value, apart, 8);
        sum += value;
    }
    sum += 1000 * __popc(__ballot_sync(0xffffffffu, lane % 3 == 0)) + 100000 * __shfl_sync(0xffffffffu, lane, 5);
    kept[t] = sum;
    __syncthreads();
    out[t] = kept[255 - t];
    """
    out = run_text(monkeypatch, tmp_path, body, runtime)
    t = np.arange(256)
    eights = t.reshape(-1, 8).sum(axis=1).repeat(8)
    turns = t % 32 // 8 + 1
    expected = turns * eights + 8 * turns * (turns - 1) // 2 + 1000 * 11 + 100000 * 5
    np.testing.assert_array_equal(out, expected[::-1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 100) __syncthreads();", "waits at a __syncthreads that not all"),
        ("if (threadIdx.x % 32 < 5) __syncwarp();", "waits at a warp operation that not all"),
        ("__shfl_sync(0xfu << (threadIdx.x & 28), 1, 9);", "is not in the mask"),
        ("__syncwarp(1u);", "is not in its own mask"),
        ("__ldg(reinterpret_cast<uint4*>(reinterpret_cast<char*>(out) + 8 * (1 + threadIdx.x)));", "misaligned"),
    ],
)
def test_what_cuda_leaves_undefined_is_an_error(monkeypatch, tmp_path, body, message):
    with pytest.raises(RuntimeError, match=message):
        run_text(monkeypatch, tmp_path, body)
    other = tmp_path / "other"
    other.mkdir()
    np.testing.assert_array_equal(
        run_text(monkeypatch, other, "__syncthreads(); out[threadIdx.x] = threadIdx.x;"), np.arange(256)
    )


def test_floats_have_no_atomics(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="does not compile probe"):
        run_text(monkeypatch, tmp_path, "atomicAdd(reinterpret_cast<float*>(out), 1.0f);")
