"""Initial positions: scaled, random or given, or from a coarse map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.layout.coarse_init import CoarseScale, coarse_scale, interpolate_init
from nomad_dask.layout.initialization import scale_init
from tests.helpers.runs import blobs


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("init_std", [1e-4, 1.0, 7.0])
@pytest.mark.parametrize("std", [1e-9, 3.0, 1e9])
def test_the_first_axis_has_the_requested_deviation(init_std, std):
    coordinates = rng().normal(size=(5000, 2)) * [std, std / 4]
    start = scale_init(coordinates.astype(np.float32), std, init_std, rng())
    assert start.dtype == np.float32
    assert start.std(axis=0) == pytest.approx([init_std, init_std / 4], rel=0.05)
    np.testing.assert_allclose(start / init_std, coordinates / std, atol=1e-3)


@pytest.mark.parametrize("std", [0.0, 2.0])
def test_identical_rows_start_at_distinct_nearby_points(std):
    start = scale_init(np.zeros((300, 3), np.float32), std, 1.0, rng())
    assert len(np.unique(start, axis=0)) == 300
    assert np.abs(start).max() < 1e-3


def test_outliers_are_moved_closer_in_their_direction():
    coordinates = np.float32([[1e9, 0], [0, -1e12], [1, 1]])
    start = scale_init(coordinates, 1.0, 2.0, rng())
    np.testing.assert_allclose(start, [[20, 0], [0, -20], [2, 2]], atol=1e-2)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_scale_grows_with_the_rows(dim):
    coarse = rng().normal(size=(1000, dim)) * 5
    scale, larger = (coarse_scale(coarse, n, 1.0, weight=1) for n in (100_000, 100_000 * 2**dim))
    assert larger.factor == pytest.approx(2 * scale.factor)
    assert larger.jitter == scale.jitter
    assert coarse_scale(coarse * 3, 100_000, 1.0, weight=1).factor == pytest.approx(scale.factor / 3)
    assert np.isfinite(coarse_scale(np.zeros((10, dim)), 100_000, 1.0, weight=1).factor)


@pytest.mark.parametrize("dim", [2, 3])
def test_without_weight_a_coarse_start_is_as_small_as_any_other(dim):
    coarse = rng().normal(size=(1000, dim)) * 5
    sizes = [coarse_scale(coarse, 100_000, 2.0, weight) for weight in (0, 0.25, 0.5, 1)]
    assert sizes[0].factor * coarse.std(axis=0).mean() == pytest.approx(2)
    ratios = [size.factor / size.jitter for size in sizes]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert sizes[2].factor == pytest.approx((sizes[0].factor + sizes[3].factor) / 2)


def make_shard(folder: Path, n_anchors: int, resident: bool) -> tuple:
    x = blobs(600, n_dims=8)
    cells = KMeans(12, n_init=1, random_state=0).fit(x)
    x = x[np.argsort(cells.labels_, kind="stable")]
    np.save(folder / "x.npy", x)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cells.labels_))])
    centroids = cells.cluster_centers_
    anchors = np.sort(rng().choice(600, n_anchors, replace=False))
    positions = rng().normal(size=(n_anchors, 2)).astype(np.float32) * 50
    vectors = ShardVectors([(folder / "x.npy", 0, 600)], cache_bytes=x.nbytes)
    if resident:
        vectors.load()
    return x, vectors, offsets, centroids, anchors, positions


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("n_anchors", [600, 60, 3, 1])
def test_rows_start_at_the_weighted_mean_of_the_nearest_anchors(tmp_path, n_anchors, resident):
    """If the nearest anchors are in the nearest cells, as they are for nearly all rows."""
    x, vectors, offsets, centroids, anchors, positions = make_shard(tmp_path, n_anchors, resident)
    start = interpolate_init(vectors, offsets, centroids, anchors, positions, CoarseScale(2.0, 0.5), rng())
    assert start.dtype == np.float32
    distances = ((x[:, None].astype(np.float64) - x[anchors]) ** 2).sum(axis=2)
    m = min(4, n_anchors)
    nearest = np.argsort(distances, axis=1)[:, :m]
    weights = 1 / np.arange(1, m + 1)
    expected = 2 * (positions[nearest] * (weights / weights.sum())[:, None]).sum(axis=1)
    is_close = np.linalg.norm(start - expected, axis=1) < 3.5  # the jitter has a standard deviation of 0.5
    assert is_close.mean() > 0.98


def test_all_cells_are_searched_when_anchors_are_few(tmp_path):
    _, vectors, offsets, centroids, _, _ = make_shard(tmp_path, 5, resident=True)
    anchors, positions = np.array([599]), np.float32([[7, -3]])
    start = interpolate_init(vectors, offsets, centroids, anchors, positions, CoarseScale(1.0, 0.5), rng())
    assert np.abs(start - [7, -3]).max() < 4
