"""The mesh against the direct sum in float64."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.interpolate import BSpline

from nomad_dask.backends.cpu.fft_convolution import KernelTransforms
from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.cpu.mesh_levels import to_coarse, to_fine
from nomad_dask.backends.kernel_parts import coarse_shape
from nomad_dask.backends.mesh import choose_mesh
from nomad_dask.utils.threads import Threads, thread_pool

NONE = np.empty(0, np.float32)
NO_POINTS = np.empty((0, 2), np.float32)


def direct(points, charges, weights):
    """U and ∇U at points from weighted charges, chunk by chunk in float64."""
    potential, gradient = np.zeros(len(points)), np.zeros(points.shape)
    for a in range(0, len(points), 256):
        apart = points[a : a + 256, None, :].astype(np.float64) - charges[None].astype(np.float64)
        q = 1 / (1 + (apart**2).sum(-1))
        potential[a : a + 256] = q @ weights
        gradient[a : a + 256] = -2 * ((q**2 * weights)[:, :, None] * apart).sum(1)
    return potential, gradient


def by_mesh(points, pool, weights=NONE, remote=None, remote_weights=NONE, spacing=0.7, max_nodes=1 << 24):
    dim = points.shape[1]
    remote = np.empty((0, dim), np.float32) if remote is None else remote
    field = Field(dim, spacing, max_nodes, pool)
    mesh = field.cover(points, remote)
    coefficients = field.solve(mesh, points, weights, remote, remote_weights)
    potential, gradient = np.empty(len(points), np.float32), np.empty_like(points)
    total = field.read(mesh, coefficients, points, potential, gradient)
    return potential, gradient, total, mesh


ONE_THREAD = Threads(1)


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def crowded(n, seed=0, dim=2):
    """Points as dense as a map of 70,000 rows is: about two on a unit of area, in clusters of all sizes."""
    rng = np.random.default_rng(seed)
    extent = np.sqrt(n / 2.0)
    centers = rng.random((40, dim)) * extent
    spread = rng.uniform(1, 0.15 * extent, 40)
    which = rng.integers(40, size=n)
    return (centers[which] + rng.normal(size=(n, dim)) * spread[which, None]).astype(np.float32)


@njit
def potential_sum(points):
    """Return the sum of the potential over all points in float64; NumPy takes half a minute for it."""
    total = 0.0
    for i in range(len(points)):
        for j in range(len(points)):
            total += 1 / (1 + (points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2)
    return total


def test_potential_and_its_sum_agree_to_a_thousandth_at_the_default_spacing():
    points = crowded(20_000)
    some = np.arange(0, len(points), 20)
    expected, _ = direct(points[some], points, np.ones(len(points)))
    with thread_pool(2) as pool:
        potential, _, total, mesh = by_mesh(points, pool)
    assert mesh.spacing == 0.7
    assert relative(potential[some], expected) <= 1e-3
    exact_total = potential_sum(points.astype(np.float64))
    assert total == pytest.approx(exact_total, rel=1e-3)


def test_forces_agree_and_converge_with_the_mesh():
    """Forces nearly cancel in a crowd, so their error is relative to the sum of their magnitudes."""
    points = crowded(4000)
    _, expected = direct(points, points, np.ones(len(points)))
    apart = points[:, None].astype(np.float64) - points[None]
    squared = (apart**2).sum(-1)
    magnitudes = (2 * np.sqrt(squared) / (1 + squared) ** 2).sum(1)
    errors = {}
    with thread_pool(2) as pool:
        for spacing in (0.7, 0.35, 0.175):
            _, gradient, _, _ = by_mesh(points, pool, spacing=spacing)
            errors[spacing] = np.linalg.norm(gradient - expected) / np.linalg.norm(magnitudes)
    assert errors[0.7] <= 1e-2
    assert errors[0.35] <= errors[0.7] / 5
    assert errors[0.175] <= 1e-3


@pytest.mark.parametrize(("dim", "width", "spacing"), [(2, 300, 0.7), (3, 70, 0.9)])
def test_a_kernel_cut_in_two_is_as_good_as_a_whole_one(monkeypatch, dim, width, spacing):
    """On meshes this large K is near on one mesh and far on another: both against the sum over all pairs."""
    rng = np.random.default_rng(1)
    centers = rng.uniform(-width / 2, width / 2, (30, dim))
    points = (centers[rng.integers(30, size=20_000)] + rng.normal(size=(20_000, dim)) * width / 40).astype(np.float32)
    some = np.arange(0, len(points), 50)
    expected, slope = direct(points[some], points, np.ones(len(points)))
    errors = []
    with thread_pool(2) as pool:
        for nodes in ({2: 160, 3: 64}, {2: 10_000, 3: 10_000}):
            monkeypatch.setattr("nomad_dask.backends.kernel_parts._SPLIT_NODES", nodes)
            potential, gradient, _, mesh = by_mesh(points, pool, spacing=spacing)
            assert min(mesh.shape) >= 64 + 96 * (dim == 2)
            errors.append((relative(potential[some], expected), relative(gradient[some], slope)))
    cut, whole = errors
    assert cut[0] <= 1.01 * whole[0] + 1e-4
    assert cut[1] <= 1.01 * whole[1] + 1e-4
    assert cut[0] <= 3e-3


@pytest.mark.parametrize("tile", [2, 1000], ids=["tiles", "one tile"])
@pytest.mark.parametrize(("dim", "width", "spacing", "split"), [(2, 500, 0.7, 160), (3, 70, 0.9, 20)])
def test_a_shard_feels_the_others_on_every_level(monkeypatch, dim, width, spacing, split, tile):
    """Own points lie in a part of the map, and only there the near part is made; further levels hold the rest."""
    monkeypatch.setattr("nomad_dask.backends.kernel_parts._SPLIT_NODES", {dim: split})
    monkeypatch.setattr("nomad_dask.backends.cpu.mesh_tiles._TILE_BLOCKS", {dim: tile})
    monkeypatch.setattr("nomad_dask.backends.cpu.mesh_tiles._NODES_OF_WHOLE", 1000)
    rng = np.random.default_rng(2)
    centers = rng.uniform(-width / 2, width / 2, (40, dim))
    points = (centers[rng.integers(40, size=24_000)] + rng.normal(size=(24_000, dim)) * width / 40).astype(np.float32)
    weights = rng.uniform(0.5, 3, len(points)).astype(np.float32)
    own = (points[:, 0] > width / 8) & (points[:, 1] > -width / 8)
    some = np.arange(0, int(own.sum()), 20)
    expected, slope = direct(points[own][some], points, weights)
    with thread_pool(2) as pool:
        shard = points[own], pool, weights[own], points[~own], weights[~own]
        potential, gradient, _, mesh = by_mesh(*shard, spacing=spacing)
        alone, _, _, _ = by_mesh(points[own], ONE_THREAD, *shard[2:], spacing=spacing)
        monkeypatch.setattr("nomad_dask.backends.kernel_parts._SPLIT_NODES", {dim: 10_000})
        whole_potential, whole_gradient, _, _ = by_mesh(*shard, spacing=spacing)
    assert min(mesh.shape) >= 4 * split
    np.testing.assert_array_equal(alone, potential)
    assert relative(potential[some], expected) <= 1.01 * relative(whole_potential[some], expected) + 3e-4
    assert relative(gradient[some], slope) <= 1.01 * relative(whole_gradient[some], slope) + 3e-4


@given(st.lists(st.integers(4, 40), min_size=1, max_size=3), st.integers(0, 99))
def test_the_ways_between_fine_and_coarse_mesh_are_transposes(shape, seed):
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=shape).astype(np.float32)
    coarse = rng.normal(size=coarse_shape(tuple(shape))).astype(np.float32)
    down, up = to_coarse(fine), to_fine(coarse, tuple(shape))
    assert (down * coarse.astype(np.float64)).sum() == pytest.approx((fine * up.astype(np.float64)).sum(), abs=1e-3)


def test_the_function_is_the_same_on_the_fine_mesh():
    """Splines are nested: evaluated by SciPy on both."""
    shape = (40,)
    coarse = np.random.default_rng(0).normal(size=coarse_shape(shape)).astype(np.float32)
    fine = to_fine(coarse, shape)
    places = np.linspace(2, 37, 500)
    knots = [np.arange(-2, len(c) + 2) for c in (fine, coarse)]
    on_fine = BSpline(knots[0], fine.astype(np.float64), 3)(places)
    # Node c of the coarse mesh lies on node 4·c − 6 of the fine one.
    on_coarse = BSpline(knots[1], coarse.astype(np.float64), 3)((places + 6) / 4)
    np.testing.assert_allclose(on_fine, on_coarse, atol=1e-5)


def test_three_dimensions_weights_and_remote_means():
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(800, 3)) * 4).astype(np.float32)
    weights = rng.uniform(0.2, 3, 800).astype(np.float32)
    remote = (rng.normal(size=(30, 3)) * 6).astype(np.float32)
    remote_weights = rng.uniform(1, 200, 30).astype(np.float32)
    expected, slope = direct(points, np.vstack([points, remote]), np.concatenate([weights, remote_weights]))
    with thread_pool(2) as pool:
        potential, gradient, _, _ = by_mesh(points, pool, weights, remote, remote_weights, spacing=0.4)
    assert relative(potential, expected) <= 1e-3
    assert relative(gradient, slope) <= 1e-2


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4))
def test_any_number_of_points_at_any_scale(n, seed, scale):
    points = (np.random.default_rng(seed).normal(size=(n, 2)) * scale).astype(np.float32)
    expected, _ = direct(points, points, np.ones(n))
    with thread_pool(1) as pool:
        potential, gradient, total, mesh = by_mesh(points, pool, max_nodes=1 << 20)
    assert np.isfinite(gradient).all()
    assert np.prod(mesh.shape) <= 1.3 * (1 << 20)
    if mesh.spacing <= 0.7:
        # A point's own potential of 1 is blurred by the mesh by up to 6 %.
        np.testing.assert_allclose(potential, expected, rtol=0.02, atol=0.06)
        assert total == pytest.approx(potential.sum(), rel=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4), st.sampled_from([2, 3]))
def test_few_points_are_summed_exactly(n, seed, scale, dim):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, dim)) * scale).astype(np.float32)
    remote, remote_weights = (rng.normal(size=(5, dim)) * scale).astype(np.float32), np.full(5, 7, np.float32)
    expected, slope = direct(points, np.vstack([points, remote]), np.concatenate([np.ones(n), remote_weights]))
    potential, gradient = np.empty(n, np.float32), np.empty((n, dim), np.float32)
    with thread_pool(1) as pool:
        field = Field(dim, 0.7, 1 << 20, pool)
        total = field.evaluate(points, NONE, remote, remote_weights, potential, gradient)
    np.testing.assert_allclose(potential, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(slope).max()))
    assert total == pytest.approx(expected.sum(), rel=1e-4)


def test_one_stray_point_does_not_widen_the_mesh():
    points = crowded(5000)
    with thread_pool(1) as pool:
        plain = by_mesh(points, pool)[3]
        points[17] = 1e7
        _, gradient, _, mesh = by_mesh(points, pool)
    assert mesh.spacing == plain.spacing
    assert np.prod(mesh.shape) <= 36 * np.prod(plain.shape)
    assert np.isfinite(gradient).all()


def test_threads_do_not_change_a_bit():
    points = crowded(30_000)
    results = []
    for n in (1, 2, 3):
        with thread_pool(n) as pool:
            results.append(by_mesh(points, pool)[:3])
    for potential, gradient, total in results[1:]:
        assert np.array_equal(potential, results[0][0])
        assert np.array_equal(gradient, results[0][1])
        assert total == results[0][2]


def test_mesh_of_a_small_map_is_fine_and_moves_in_steps():
    sizes = {choose_mesh(np.zeros(2), np.full(2, span), 0.7, 1 << 24).spacing for span in np.linspace(1, 3, 60)}
    assert len(sizes) <= 9
    mesh = choose_mesh(np.zeros(2), np.array([2.0, 1.0]), 0.7, 1 << 24)
    assert 2.0 / mesh.spacing >= 40


def test_shards_of_one_map_share_the_transform_of_the_kernel():
    points = np.random.default_rng(0).uniform(-40, 40, (20_000, 2)).astype(np.float32)
    with thread_pool(1) as pool:
        transforms = KernelTransforms()
        fields = [Field(2, 0.7, 1 << 22, pool, transforms) for _ in range(2)]
        kept = []
        for one in fields:
            one.solve(one.cover(points, NO_POINTS), points, NONE, NO_POINTS, NONE)
            kept.extend(one._solver._transforms[0].values())
        assert kept[0] is kept[1]
        gone = weakref.ref(kept[0])
        del kept, fields, one
    gc.collect()
    assert gone() is None
