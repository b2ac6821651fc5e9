"""The start of the rows: distances between groups of cells are preserved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import smacof

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.data import CellTree, PrincipalAxes
from nomad_dask.partition import start_positions
from nomad_dask.partition.start_positions import mds_start, principal_start, stress_majorization
from tests.helpers.runs import blobs


def stress(distances: np.ndarray, points: np.ndarray) -> float:
    return float(((pdist(points) - squareform(distances)) ** 2).sum())


def sample_of_cells(n_cells: int, dim: int = 2, n: int = 4000) -> tuple:
    """Cells of rows along their principal axes, with the rows' coordinates and labels."""
    x = blobs(n, n_dims=12, n_blobs=30)
    x = (x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2].T
    x = x.astype(np.float32)
    backend = CpuBackend(1)
    cells = backend.fit_cells(x, n_cells, 0)
    axes = PrincipalAxes(np.zeros(12, np.float32), np.eye(12, dtype=np.float32), float(x[:, 0].std()))
    return backend, x, backend.assign(x, cells), cells, axes, dim


@pytest.mark.parametrize("dim", [2, 3])
def test_the_stress_is_as_low_as_that_of_scikit_learn(dim):
    rows = np.random.default_rng(0).normal(size=(120, 10)) * np.linspace(2, 0.3, 10)
    distances = squareform(pdist(rows))
    points = stress_majorization(distances, rows[:, :dim])
    reference = smacof(
        distances, n_components=dim, init=rows[:, :dim], n_init=1, max_iter=1000, eps=1e-9, normalized_stress=False
    )[0]
    assert points.shape == (120, dim)
    assert stress(distances, points) < 1.01 * stress(distances, reference)
    assert stress(distances, points) < 0.8 * stress(distances, rows[:, :dim])


def test_distances_in_the_plane_are_reproduced():
    rows = np.random.default_rng(0).normal(size=(40, 2))
    noise = np.random.default_rng(1).normal(size=(40, 2)) * 0.1
    points = stress_majorization(squareform(pdist(rows)), rows + noise)
    np.testing.assert_allclose(pdist(points), pdist(rows), atol=0.02)


def test_equal_points_stay_finite():
    assert np.array_equal(stress_majorization(np.zeros((5, 5)), np.zeros((5, 2))), np.zeros((5, 2)))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("max_groups", [300, 30])
def test_distances_between_rows_of_different_cells_are_closer_than_along_the_axes(monkeypatch, dim, max_groups):
    monkeypatch.setattr(start_positions, "_MAX_GROUPS", max_groups)
    backend, x, labels, cells, axes, dim = sample_of_cells(80, dim)
    start = mds_start(backend, x, labels, cells, axes, dim)
    assert start.shifts.shape == (len(cells.centroids), dim)
    assert start.shifts.dtype == np.float32
    rows = x[:, :dim] + start.shifts[labels]
    assert rows.std(axis=0).max() == pytest.approx(start.std, rel=0.05)
    some = slice(None, None, 10)
    true = squareform(pdist(x[some]))
    assert stress(true, rows[some]) < 0.8 * stress(true, x[some, :dim])


def test_rows_keep_their_place_in_their_group():
    backend, x, labels, cells, axes, dim = sample_of_cells(80)
    start = mds_start(backend, x, labels, cells, axes, dim)
    assert len(np.unique(start.shifts, axis=0)) == len(cells.centroids)
    assert np.array_equal(start.shifts, mds_start(backend, x, labels, cells, axes, dim).shifts)


def test_a_few_rows_far_away_leave_the_others_in_place():
    backend, x, labels, cells, axes, dim = sample_of_cells(80)
    start = mds_start(backend, x, labels, cells, axes, dim)
    far = np.append(cells.centroids, np.full((1, 12), 1e6, np.float32), axis=0)
    with_outliers = CellTree(far, cells.parents, np.array([0, len(far)]))
    x_far = np.append(x, np.full((3, 12), 1e6, np.float32), axis=0)
    labels_far = np.append(labels, [len(far) - 1] * 3)
    moved = mds_start(backend, x_far, labels_far, with_outliers, axes, dim)
    assert moved.std == pytest.approx(start.std, rel=0.1)
    assert np.abs(moved.shifts[:-1]).max() < 10 * axes.std


@pytest.mark.parametrize("n_cells", [1, 5])
def test_without_distances_rows_start_at_their_coordinates(n_cells):
    backend = CpuBackend(1)
    x = np.zeros((50, 4), np.float32)
    cells = CellTree(np.zeros((n_cells, 4), np.float32), np.zeros((1, 4), np.float32), np.array([0, n_cells]))
    axes = PrincipalAxes(np.zeros(4), np.eye(4), 0.0)
    start = mds_start(backend, x, np.zeros(50, np.int32), cells, axes, 2)
    expected = principal_start(n_cells, 2, axes)
    assert np.array_equal(start.shifts, expected.shifts)
    assert start.std == expected.std == 0
