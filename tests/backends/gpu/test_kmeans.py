"""K-Means cells on the GPU: little memory, and bad results of the library; scikit-learn stands in for cuML."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans

from nomad_dask.backends.gpu import kmeans
from nomad_dask.backends.gpu.kmeans import assign, fit_cells
from tests.backends.test_kmeans import inertia, rows, squared_distances
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()


def test_few_cells_are_assigned_exactly_with_little_memory():
    x = rows(1500, 10)
    cells = fit_cells(x, 50, 0, RUNTIME)
    labels = assign(x, cells, HostRuntime(free=1 << 16))
    distances = squared_distances(x, cells)
    assert (distances[np.arange(len(x)), labels] <= distances.min(axis=1) + 1e-3).all()
    assert (labels == distances.argmin(axis=1)).mean() > 0.999


def test_the_tree_assigns_alike_with_little_memory(monkeypatch):
    monkeypatch.setattr(kmeans, "MAX_FLAT_CELLS", 100)
    x = rows(3000, 8)
    cells = fit_cells(x, 150, 0, RUNTIME)
    np.testing.assert_array_equal(assign(x, cells, HostRuntime(free=1 << 17)), assign(x, cells, RUNTIME))


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


def test_a_repetition_changes_nothing():
    x = rows(2000, 5)
    one, two = (fit_cells(x, 40, 3, RUNTIME) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(assign(x, one, RUNTIME), assign(x, two, HostRuntime(seed=5)))
