"""K-Means cells against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.data import CellTree
from tests.helpers.host_runtime import is_emulated


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(12, d))
    return (centers[rng.integers(12, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def squared_distances(x: np.ndarray, cells: CellTree) -> np.ndarray:
    """Squared distances of all rows to all centroids in float64."""
    a, b = x.astype(np.float64), cells.centroids.astype(np.float64)
    return (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)


def inertia(x: np.ndarray, cells: CellTree, labels: np.ndarray) -> float:
    return float(((x.astype(np.float64) - cells.centroids[labels].astype(np.float64)) ** 2).sum())


def test_the_largest_seed_makes_cells(backend):
    assert 12 <= len(backend.fit_cells(rows(600, 4), 12, 2**63 - 1).centroids) <= 15


@pytest.mark.parametrize(("n", "n_cells"), [(2000, 12), (3000, 12), (3000, 60), (6000, 150)])
def test_inertia_is_near_that_of_scikit_learn(backend, n, n_cells):
    x = rows(n, 10)
    cells = backend.fit_cells(x, n_cells, 0)
    assert n_cells <= len(cells.centroids) <= 1.2 * n_cells
    reference = KMeans(len(cells.centroids), n_init=1, random_state=0).fit(x)
    limit = 1.15 if isinstance(backend, CpuBackend) else 1.1
    assert inertia(x, cells, backend.assign(x, cells)) < limit * reference.inertia_


def test_few_cells_are_assigned_exactly(backend):
    x = rows(1500 if is_emulated(backend) else 5000, 10)
    cells = backend.fit_cells(x, 50, 0)
    labels = backend.assign(x, cells)
    distances = squared_distances(x, cells)
    assert labels.dtype == np.int32
    assert (distances[np.arange(len(x)), labels] <= distances.min(axis=1) + 1e-3).all()
    assert (labels == distances.argmin(axis=1)).mean() > 0.999


def test_the_tree_assigns_nearly_as_well(backend, monkeypatch):
    monkeypatch.setattr(kmeans_tree, "MAX_FLAT_CELLS", 100)
    n, n_cells = (6000, 150) if is_emulated(backend) else (40_000, 1200)
    x = rows(n, 8)
    cells = backend.fit_cells(x, n_cells, 0)
    labels = backend.assign(x, cells)
    assert len(cells.parents) > 10
    assert (cells.offsets[0], cells.offsets[-1]) == (0, len(cells.centroids))
    assert (np.diff(cells.offsets) > 0).all()
    assert 0.9 * n_cells <= len(cells.centroids) <= 1.3 * n_cells
    distances, labels = squared_distances(x[:6000], cells), labels[:6000]
    assert distances[np.arange(6000), labels].sum() < 1.02 * distances.min(axis=1).sum()
    assert (labels == distances.argmin(axis=1)).mean() > 0.9


def test_no_cell_is_huge_and_few_are_tiny(backend):
    rng = np.random.default_rng(0)
    n_cells = 30 if is_emulated(backend) else 60  # of 100 rows on average
    dense, sparse = (100 * n_cells * share // 6 for share in (5, 1))
    x = np.concatenate([rng.normal(size=(dense, 6)) * 0.05, 3 * rng.normal(size=(sparse, 6))]).astype(np.float32)
    cells = backend.fit_cells(x, n_cells, 0)
    sizes = np.bincount(backend.assign(x, cells), minlength=len(cells.centroids))
    assert sizes.max() <= 1.1 * 4 * 100
    assert (sizes == 0).sum() <= 2
    if is_emulated(backend):
        assert (sizes < 100 / 8).sum() <= 6


def test_far_from_the_origin(backend):
    x = rows(1500 if is_emulated(backend) else 3000, 6)
    far = x + np.float32(3000)
    near_cells, far_cells = (backend.fit_cells(moved, 30, 0) for moved in (x, far))
    near_labels, far_labels = backend.assign(x, near_cells), backend.assign(far, far_cells)
    limit = 1.02 if isinstance(backend, CpuBackend) else 1.05
    assert inertia(far, far_cells, far_labels) < limit * inertia(x, near_cells, near_labels)


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 4),
    n_cells=st.integers(1, 80),
    seed=st.integers(0, 5),
    kinds=st.integers(1, 60),
)
def test_any_rows_get_a_cell(backend, n, d, n_cells, seed, kinds):
    """With any number of duplicates among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(kinds, d)).astype(np.float32)[rng.integers(kinds, size=n)]
    cells = backend.fit_cells(x, n_cells, seed)
    labels = backend.assign(x, cells)
    assert np.isfinite(cells.centroids).all()
    assert cells.centroids.dtype == np.float32
    assert labels.min() >= 0
    assert labels.max() < len(cells.centroids)
    distances = squared_distances(x, cells)
    assert (distances[np.arange(n), labels] <= distances.min(axis=1) + 1e-4).all()


def test_rows_of_any_type_are_assigned(backend):
    x = np.round(10 * rows(500, 4)).astype(np.float16)
    cells = backend.fit_cells(x.astype(np.float32), 10, 0)
    np.testing.assert_array_equal(backend.assign(x, cells), backend.assign(x.astype(np.float32), cells))


def test_the_given_parents_are_those_of_the_cells(backend):
    rng = np.random.default_rng(0)
    x = rows(600, 5) + np.float32(4)
    given = x[rng.choice(600, 7, replace=False)]
    cells = backend.fit_cells(x, 60, 0, given)
    np.testing.assert_allclose(cells.parents, given, rtol=1e-5, atol=1e-5)
    nearest = ((cells.centroids[:, None] - given) ** 2).sum(axis=2).argmin(axis=1)
    # The center of a cell can be nearer to another parent than its rows are.
    assert (nearest == np.repeat(np.arange(7), np.diff(cells.offsets))).mean() > 0.9
