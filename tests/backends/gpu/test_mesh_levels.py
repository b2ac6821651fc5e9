"""Levels of a mesh on the GPU: the ways between them against SciPy's splines, the convolution against all pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.gpu.epoch_inputs import fixed_point_scale, make_frame
from nomad_dask.backends.gpu.mesh_field import MeshField
from nomad_dask.backends.gpu.mesh_levels import MeshLevels, level_shapes, padded_shape
from nomad_dask.backends.kernel_parts import REACH, coarse_mesh
from nomad_dask.backends.mesh import Mesh
from nomad_dask.utils.threads import Threads
from tests.backends.gpu.test_mesh_kernels import basis, brute_force, cloud
from tests.helpers.host_runtime import HostRuntime

# So that small meshes have three levels in two dimensions, and two in three.
SPLIT = {2: 18, 3: 20}
MESHES = {2: Mesh((-8.0, -9.0), 0.25, (64, 96)), 3: Mesh((-6.0, -6.0, -6.0), 0.4, (32, 32, 32))}
RUNTIMES = [HostRuntime(), HostRuntime(seed=5)]

dims = pytest.mark.parametrize("dim", [2, 3])
runtimes = pytest.mark.parametrize("runtime", RUNTIMES, ids=["in order", "shuffled"])


@pytest.fixture(autouse=True)
def split_small_meshes(monkeypatch):
    monkeypatch.setattr("nomad_dask.backends.kernel_parts._SPLIT_NODES", SPLIT)


def corner(shape):
    return tuple(slice(size) for size in shape)


def two_levels(runtime, mesh):
    """Return the first two levels of a mesh."""
    return MeshLevels(mesh.shape, runtime)._levels[:2]


@dims
@runtimes
def test_charges_of_a_coarse_mesh_are_those_that_the_points_would_have_there(dim, runtime):
    mesh, points = MESHES[dim], cloud(300, dim, width=1.2)
    fine, coarse = two_levels(runtime, mesh)
    fine.transform.real[corner(mesh.shape)] = basis(mesh, points).sum(axis=0).reshape(mesh.shape)
    n = math.prod(coarse.shape)
    runtime.launch("restrict_charges", dim, n, fine.transform.real, fine.to_coarser, np.int64(n), coarse.transform.real)
    expected = basis(coarse_mesh(mesh), points).sum(axis=0).reshape(coarse.shape)
    np.testing.assert_allclose(coarse.transform.real[corner(coarse.shape)], expected, atol=2e-5 * expected.max())
    coarse.transform.real[corner(coarse.shape)] = 0
    assert not coarse.transform.real.any()


@dims
@runtimes
def test_a_coarse_potential_is_the_same_function_on_the_fine_mesh(dim, runtime):
    mesh, points = MESHES[dim], cloud(200, dim, width=1.2)
    fine, coarse = two_levels(runtime, mesh)
    rng, n = np.random.default_rng(3), math.prod(mesh.shape)
    coefficients, own = rng.normal(size=coarse.shape), rng.normal(size=mesh.shape)
    coarse.transform.potential[corner(coarse.shape)] = coefficients
    fine.transform.potential[corner(mesh.shape)] = own
    potential = fine.transform.potential
    runtime.launch("add_coarse", dim, n, coarse.transform.potential, fine.to_coarser, np.int64(n), potential)
    expected = basis(mesh, points) @ own.ravel() + basis(coarse_mesh(mesh), points) @ coefficients.ravel()
    got = basis(mesh, points) @ potential[corner(mesh.shape)].astype(np.float64).ravel()
    np.testing.assert_allclose(got, expected, atol=2e-5)


def field_of(runtime, mesh, points, remote, weights):
    """Return potential, repulsion and Z of points of weight 1 and remote charges."""
    charge = len(points) + float(weights.sum())
    frame = make_frame(mesh, fixed_point_scale(charge)).view(np.uint8)
    field = MeshField(len(mesh.shape), runtime, frame)
    field.set_mesh(mesh)
    field.solve(points, None, remote, weights)
    potential, repulsion, z = np.empty(len(points), np.float32), np.empty_like(points), np.empty(1)
    field.read(points, potential, repulsion)
    field.sum_potential(field.charges[0], 0.0, z)
    return potential, repulsion, z[0]


@dims
def test_field_of_levels_is_that_of_pairs_and_of_the_cpu(dim):
    mesh, n = MESHES[dim], 900
    assert len(level_shapes(mesh.shape)) == 5 - dim
    points, remote = cloud(n, dim, width=1.3), cloud(40, dim, seed=10)
    weights = (10 * np.random.default_rng(9).random(40)).astype(np.float32)
    potential, repulsion, z = field_of(RUNTIMES[0], mesh, points, remote, weights)

    field = Field(dim, mesh.spacing, 1 << 20, Threads(1))
    on_cpu = field.solve(mesh, points, np.empty(0, np.float32), remote, weights)
    cpu_potential, cpu_gradient = np.empty(n, np.float32), np.empty((n, dim), np.float32)
    cpu_z = field.read(mesh, on_cpu, points, cpu_potential, cpu_gradient)
    np.testing.assert_allclose(potential, cpu_potential, rtol=1e-5)
    np.testing.assert_allclose(repulsion, -0.5 * cpu_gradient, atol=1e-5 * np.abs(cpu_gradient).max())
    assert z == pytest.approx(cpu_z, rel=1e-6)

    charges, all_weights = np.concatenate([points, remote]), np.concatenate([np.ones(n), weights])
    exact_potential, exact_repulsion = brute_force(points, charges, all_weights)
    np.testing.assert_allclose(potential, exact_potential, rtol=1e-3)
    np.testing.assert_allclose(repulsion, exact_repulsion, atol=(2e-3, 1e-2)[dim - 2] * np.abs(exact_repulsion).max())


@dims
def test_the_order_of_threads_changes_no_bit(dim):
    mesh, points, remote = MESHES[dim], cloud(300, dim), cloud(9, dim, seed=4)
    (first, *others) = (field_of(runtime, mesh, points, remote, np.ones(9, np.float32)) for runtime in RUNTIMES)
    for other in others:
        for got, expected in zip(other, first, strict=True):
            np.testing.assert_array_equal(got, expected)


@given(st.lists(st.integers(4, 9000), min_size=2, max_size=3).map(tuple))
def test_meshes_are_padded_as_far_as_their_kernel_reaches_to_lengths_that_are_fast(shape):
    for level in level_shapes(shape):
        is_near = min(level) >= SPLIT[len(level)]
        for size, padded in zip(level, padded_shape(level), strict=True):
            needed = size + REACH if is_near else 2 * size
            assert needed <= padded <= 1.1 * needed + 2
            assert padded % 2 == 0
            assert 210**14 % padded == 0  # no prime factor above 7
    assert min(level_shapes(shape)[-1]) < SPLIT[len(shape)]
