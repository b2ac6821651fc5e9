"""K-Means cells on the GPU: little memory, and bad results of the library; scikit-learn stands in for cuML."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.gpu.kmeans import assign, fit_cells
from tests.backends.test_kmeans import rows, squared_distances
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
    monkeypatch.setattr(kmeans_tree, "MAX_FLAT_CELLS", 100)
    x = rows(3000, 8)
    cells = fit_cells(x, 150, 0, RUNTIME)
    np.testing.assert_array_equal(assign(x, cells, HostRuntime(free=1 << 17)), assign(x, cells, RUNTIME))


def test_a_repetition_changes_nothing():
    x = rows(2000, 5)
    one, two = (fit_cells(x, 40, 3, RUNTIME) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(assign(x, one, RUNTIME), assign(x, two, HostRuntime(seed=5)))
