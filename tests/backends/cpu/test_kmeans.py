"""K-Means cells against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from nomad_dask.backends.base import CellTree
from nomad_dask.backends.cpu.kmeans import assign, fit_cells
from nomad_dask.utils.threads import thread_pool


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(12, d))
    return (centers[rng.integers(12, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def squared_gaps(x: np.ndarray, cells: CellTree) -> np.ndarray:
    """Squared distances of all rows to all centroids in float64."""
    a, b = x.astype(np.float64), cells.centroids.astype(np.float64)
    return (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)


def inertia(x: np.ndarray, cells: CellTree, labels: np.ndarray) -> float:
    return float(((x.astype(np.float64) - cells.centroids[labels].astype(np.float64)) ** 2).sum())


@pytest.mark.parametrize(("n", "n_cells"), [(3000, 12), (3000, 60), (6000, 150)])
def test_inertia_is_near_that_of_scikit_learn(n, n_cells):
    x = rows(n, 10)
    with thread_pool(2) as pool:
        cells = fit_cells(x, n_cells, 0, pool)
        labels = assign(x, cells, pool)
    assert n_cells <= len(cells.centroids) <= 1.2 * n_cells
    reference = KMeans(len(cells.centroids), n_init=1, random_state=0).fit(x)
    assert inertia(x, cells, labels) < 1.15 * reference.inertia_


def test_few_cells_are_assigned_exactly():
    x = rows(5000, 10)
    with thread_pool(2) as pool:
        cells = fit_cells(x, 50, 0, pool)
        labels = assign(x, cells, pool)
    gaps = squared_gaps(x, cells)
    assert labels.dtype == np.int32
    chosen = gaps[np.arange(len(x)), labels]
    assert (chosen <= gaps.min(axis=1) + 1e-3).all()
    assert (labels == gaps.argmin(axis=1)).mean() > 0.999


def test_the_tree_assigns_nearly_as_well():
    x = rows(40_000, 8)
    with thread_pool(2) as pool:
        cells = fit_cells(x, 1200, 0, pool)
        labels = assign(x, cells, pool)
    assert len(cells.parents) > 10
    assert cells.offsets[0] == 0
    assert cells.offsets[-1] == len(cells.centroids)
    assert (np.diff(cells.offsets) > 0).all()
    assert 0.9 * 1200 <= len(cells.centroids) <= 1.3 * 1200
    gaps = squared_gaps(x[:4000], cells)
    chosen = gaps[np.arange(4000), labels[:4000]]
    assert chosen.sum() < 1.02 * gaps.min(axis=1).sum()
    assert (labels[:4000] == gaps.argmin(axis=1)).mean() > 0.9


def test_no_cell_is_huge_and_few_are_tiny():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(5000, 6)) * 0.05, 3 * rng.normal(size=(1000, 6))]).astype(np.float32)
    with thread_pool(2) as pool:
        cells = fit_cells(x, 60, 0, pool)
        sizes = np.bincount(assign(x, cells, pool), minlength=len(cells.centroids))
    assert sizes.max() <= 1.1 * 4 * 100
    assert (sizes == 0).sum() <= 2


def test_far_from_the_origin():
    x = rows(3000, 6)
    with thread_pool(1) as pool:
        here, there = (fit_cells(moved, 30, 0, pool) for moved in (x, x + np.float32(3000)))
        a, b = assign(x, here, pool), assign(x + np.float32(3000), there, pool)
    assert inertia(x + np.float32(3000), there, b) < 1.02 * inertia(x, here, a)


@pytest.mark.parametrize("n_cells", [40, 1100])
def test_threads_and_repetition_change_nothing(n_cells):
    x = rows(9000, 5)
    made = []
    for n in (1, 4, 1):
        with thread_pool(n) as pool:
            cells = fit_cells(x, n_cells, 3, pool)
            made.append((cells, assign(x, cells, pool)))
    for cells, labels in made[1:]:
        np.testing.assert_array_equal(cells.centroids, made[0][0].centroids)
        np.testing.assert_array_equal(cells.parents, made[0][0].parents)
        np.testing.assert_array_equal(labels, made[0][1])


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 4),
    n_cells=st.integers(1, 80),
    seed=st.integers(0, 5),
    kinds=st.integers(1, 60),
)
def test_any_rows_get_a_cell(n, d, n_cells, seed, kinds):
    """With any number of duplicates among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(kinds, d)).astype(np.float32)[rng.integers(kinds, size=n)]
    with thread_pool(1) as pool:
        cells = fit_cells(x, n_cells, seed, pool)
        labels = assign(x, cells, pool)
    assert np.isfinite(cells.centroids).all()
    assert cells.centroids.dtype == np.float32
    assert labels.min() >= 0
    assert labels.max() < len(cells.centroids)
    gaps = squared_gaps(x, cells)
    assert (gaps[np.arange(n), labels] <= gaps.min(axis=1) + 1e-4).all()


def test_rows_of_any_type_are_assigned():
    x = np.round(10 * rows(500, 4)).astype(np.float16)
    with thread_pool(1) as pool:
        cells = fit_cells(x.astype(np.float32), 10, 0, pool)
        np.testing.assert_array_equal(assign(x, cells, pool), assign(x.astype(np.float32), cells, pool))
