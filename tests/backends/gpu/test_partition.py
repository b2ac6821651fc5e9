"""The GPU's principal axes and cells, with NumPy and scikit-learn in place of CuPy and cuML."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn.cluster import KMeans

from nomad_dask.backends.base import CellTree
from nomad_dask.backends.cpu import projection as cpu_pca
from nomad_dask.backends.gpu import kmeans
from nomad_dask.backends.gpu.kmeans import assign, fit_cells
from nomad_dask.backends.gpu.projection import fit_axes, project
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()


def rows(n, d, seed=0):
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(12, d))
    return (centers[rng.integers(12, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def spread(n, d, seed=0):
    """Rows whose spread falls from one axis to the next, in random directions."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * 0.7 ** np.arange(d) @ turn + rng.normal(size=d)).astype(np.float32)


def squared_gaps(x, cells: CellTree):
    a, b = x.astype(np.float64), cells.centroids.astype(np.float64)
    return (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)


def inertia(x, cells, labels):
    return float(((x.astype(np.float64) - cells.centroids[labels].astype(np.float64)) ** 2).sum())


# --- principal axes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "n_axes"), [(3000, 40, 5), (500, 200, 20), (100, 10, 10), (50, 300, 8)])
@pytest.mark.parametrize("n_far", [0, 1])
def test_the_axes_are_those_of_the_cpu(n, d, n_axes, n_far):
    x = spread(n, d)
    x[:n_far] *= 1e6
    ours, theirs = fit_axes(x, n_axes, 0, RUNTIME), cpu_pca.fit_axes(x, n_axes, 0)
    assert (ours.components.shape, ours.components.dtype) == ((n_axes, d), np.float32)
    np.testing.assert_allclose(ours.components @ ours.components.T, np.eye(n_axes), atol=1e-5)
    np.testing.assert_allclose(ours.components[:5], theirs.components[:5], atol=2e-3)
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-4)
    assert ours.std == pytest.approx(theirs.std, rel=1e-4)


def test_the_axes_are_those_of_an_svd():
    x = spread(3000, 40)
    axes = fit_axes(x, 3, 0, RUNTIME)
    expected = np.linalg.svd(x.astype(np.float64) - x.mean(axis=0), full_matrices=False)[2][:3]
    assert np.rad2deg(subspace_angles(axes.components.T, expected.T).max()) < 12  # far rows are pulled in


@pytest.mark.parametrize("free", [8 << 30, 1 << 12])
def test_projection(free):
    x = spread(200, 12)
    axes = fit_axes(x, 4, 0, RUNTIME)
    expected = (x.astype(np.float64) - axes.mean) @ axes.components.T.astype(np.float64)
    found = project(x, axes, HostRuntime(free=free))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(project(x.astype(np.float16), axes, RUNTIME), expected, atol=0.05)


@settings(max_examples=60)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 12),
    n_axes=st.integers(1, 14),
    kind=st.sampled_from(["normal", "constant", "line", "far"]),
    seed=st.integers(0, 3),
)
def test_any_sample_has_axes(n, d, n_axes, kind, seed):
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.normal(size=(n, d)),
        "constant": np.full((n, d), 3.25),
        "line": np.outer(rng.normal(size=n), np.ones(d)),
        "far": 1e6 + rng.normal(size=(n, d)),
    }[kind].astype(np.float32)
    x.flags.writeable = False
    axes = fit_axes(x, n_axes, seed, RUNTIME)
    assert axes.components.shape == (n_axes, d)
    assert np.isfinite(axes.components).all()
    assert np.isfinite(axes.mean).all()
    assert axes.std >= 0
    assert (np.linalg.norm(axes.components, axis=1) < 1 + 1e-3).all()
    assert np.isfinite(project(x, axes, RUNTIME)).all()


# --- cells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_cells"), [(2000, 12), (3000, 60)])
def test_inertia_is_near_that_of_scikit_learn(n, n_cells):
    x = rows(n, 10)
    cells = fit_cells(x, n_cells, 0, RUNTIME)
    assert n_cells <= len(cells.centroids) <= 1.2 * n_cells
    reference = KMeans(len(cells.centroids), n_init=1, random_state=0).fit(x)
    assert inertia(x, cells, assign(x, cells, RUNTIME)) < 1.1 * reference.inertia_


@pytest.mark.parametrize("free", [8 << 30, 1 << 16])
def test_few_cells_are_assigned_exactly(free):
    x = rows(1500, 10)
    cells = fit_cells(x, 50, 0, RUNTIME)
    labels = assign(x, cells, HostRuntime(free=free))
    gaps = squared_gaps(x, cells)
    assert labels.dtype == np.int32
    assert (gaps[np.arange(len(x)), labels] <= gaps.min(axis=1) + 1e-3).all()
    assert (labels == gaps.argmin(axis=1)).mean() > 0.999


def test_the_tree_assigns_nearly_as_well(monkeypatch):
    monkeypatch.setattr(kmeans, "MAX_FLAT_CELLS", 100)
    x = rows(6000, 8)
    cells = fit_cells(x, 150, 0, RUNTIME)
    assert len(cells.parents) > 10
    assert (cells.offsets[0], cells.offsets[-1]) == (0, len(cells.centroids))
    assert (np.diff(cells.offsets) > 0).all()
    assert 0.9 * 150 <= len(cells.centroids) <= 1.3 * 150
    labels = assign(x, cells, RUNTIME)
    gaps = squared_gaps(x, cells)
    assert gaps[np.arange(len(x)), labels].sum() < 1.02 * gaps.min(axis=1).sum()
    assert (labels == gaps.argmin(axis=1)).mean() > 0.9
    narrow = assign(x, cells, HostRuntime(free=1 << 18))
    np.testing.assert_array_equal(narrow, labels)


def test_no_cell_is_huge_and_few_are_tiny():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(2500, 6)) * 0.05, 3 * rng.normal(size=(500, 6))]).astype(np.float32)
    cells = fit_cells(x, 30, 0, RUNTIME)
    sizes = np.bincount(assign(x, cells, RUNTIME), minlength=len(cells.centroids))
    assert sizes.max() <= 1.1 * 4 * 100
    assert (sizes < 100 / 8).sum() <= 6


def test_empty_cells_move_into_the_largest():
    """A library that gives nothing but one point many times over."""

    class Poor(HostRuntime):
        def kmeans(self, sample, n_clusters, seed):
            return np.repeat(sample[:1], n_clusters, axis=0)

    x = rows(1000, 4)
    cells = fit_cells(x, 16, 0, Poor())
    sizes = np.bincount(assign(x, cells, RUNTIME), minlength=len(cells.centroids))
    assert (sizes > 0).sum() >= 8
    assert sizes.max() <= 4 * 1000 / 16 * 1.2


def test_centers_that_are_not_finite_are_mended():
    class Broken(HostRuntime):
        def kmeans(self, sample, n_clusters, seed):
            centers = super().kmeans(sample, n_clusters, seed)
            centers[3] = np.nan
            return centers

    x = rows(800, 4)
    cells = fit_cells(x, 10, 0, Broken())
    assert np.isfinite(cells.centroids).all()
    reference = KMeans(10, n_init=1, random_state=0).fit(x)
    assert inertia(x, cells, assign(x, cells, RUNTIME)) < 1.2 * reference.inertia_


def test_far_from_the_origin():
    x = rows(1500, 6)
    far = x + np.float32(3000)
    here, there = (fit_cells(moved, 30, 0, RUNTIME) for moved in (x, far))
    a, b = assign(x, here, RUNTIME), assign(far, there, RUNTIME)
    assert inertia(far, there, b) < 1.05 * inertia(x, here, a)


def test_a_repetition_changes_nothing():
    x = rows(2000, 5)
    one, two = (fit_cells(x, 40, 3, RUNTIME) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(assign(x, one, RUNTIME), assign(x, two, HostRuntime(seed=5)))


@settings(max_examples=40)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 4),
    n_cells=st.integers(1, 80),
    seed=st.integers(0, 5),
    kinds=st.integers(1, 60),
)
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_any_rows_get_a_cell(n, d, n_cells, seed, kinds):
    """With any number of duplicates among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(kinds, d)).astype(np.float32)[rng.integers(kinds, size=n)]
    cells = fit_cells(x, n_cells, seed, RUNTIME)
    labels = assign(x, cells, RUNTIME)
    assert np.isfinite(cells.centroids).all()
    assert cells.centroids.dtype == np.float32
    assert labels.min() >= 0
    assert labels.max() < len(cells.centroids)
    gaps = squared_gaps(x, cells)
    assert (gaps[np.arange(n), labels] <= gaps.min(axis=1) + 1e-4).all()


def test_rows_of_any_type_are_assigned():
    x = np.round(10 * rows(500, 4)).astype(np.float16)
    cells = fit_cells(x.astype(np.float32), 10, 0, RUNTIME)
    np.testing.assert_array_equal(assign(x, cells, RUNTIME), assign(x.astype(np.float32), cells, RUNTIME))
