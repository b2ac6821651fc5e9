"""The nearest cells on the device, against all distances in float64."""

from __future__ import annotations

import math
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.gpu import nearest_cells as module
from nomad_dask.backends.gpu.backend import GpuBackend
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.host_runtime import HostRuntime


def squared_distances(centroids: np.ndarray, cells: np.ndarray) -> np.ndarray:
    x = centroids.astype(np.float64)
    return ((x[cells, None] - x) ** 2).sum(axis=2)


def assert_nearest(near: np.ndarray, centroids: np.ndarray, cells: np.ndarray, m: int, rtol: float = 1e-5) -> None:
    """Check that cells are the nearest ones, in order, except for ties within float32 rounding."""
    assert near.dtype == np.int32
    assert near.shape == (len(cells), min(m, len(centroids)))
    gaps = squared_distances(centroids, cells)
    assert all(len(set(row)) == len(row) for row in near.tolist())
    expected = np.sort(gaps, axis=1)[:, : near.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(gaps, near, axis=1), expected, rtol=rtol, atol=1e-12)


@settings(max_examples=40)
@given(
    n=st.integers(1, 90), m=st.integers(1, 100), d=st.integers(1, 9), seed=st.integers(0, 50),
    ends=st.tuples(st.integers(0, 90), st.integers(0, 90)), listed=st.sampled_from([3, 1024]),
    free=st.sampled_from([0, 1 << 16, 1 << 33]),
)  # fmt: skip
def test_equal_brute_force(n, m, d, seed, ends, listed, free):
    """By lists and by sorting, whole and in tiles of single cells."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(n, d)).astype(np.float32)
    first, last = sorted(min(end, n) for end in ends)
    cells = rng.permutation(n)[first:last]
    with pytest.MonkeyPatch.context() as patch, closing(GpuBackend(HostRuntime(free=free))) as backend:
        patch.setattr(module, "MAX_LISTED_COLUMNS", listed)
        assert_nearest(backend.nearest_cells(centroids, cells, m), centroids, cells, m)


def tight_groups(n_groups: int = 3, size: int = 60) -> np.ndarray:
    """Groups so far apart that products in float32 do not tell the cells of one from each other."""
    rng = np.random.default_rng(0)
    centers = np.repeat(1000 * rng.normal(size=(n_groups, 6)), size, axis=0)
    return (centers + rng.normal(size=centers.shape)).astype(np.float32)


def test_no_cell_is_missed_where_products_are_too_coarse(gpu_backend):
    centroids, cells = tight_groups(), np.arange(0, 180, 3)
    assert_nearest(gpu_backend.nearest_cells(centroids, cells, 5), centroids, cells, 5)


def test_products_alone_would_miss_them(monkeypatch):
    """Else the test above would prove nothing."""
    monkeypatch.setattr(module, "_excludes_others", lambda squares, *_: np.ones(len(squares), np.bool_))
    centroids, cells = tight_groups(), np.arange(0, 180, 3)
    near = GpuBackend(HostRuntime()).nearest_cells(centroids, cells, 5)
    found = np.sort(np.take_along_axis(squared_distances(centroids, cells), near, axis=1), axis=1)
    assert (found > 1.01 * np.sort(squared_distances(centroids, cells), axis=1)[:, :5]).any()


@pytest.mark.parametrize("n_equal", [4, 100])
def test_equal_cells_are_sorted_by_number(gpu_backend, n_equal):
    centroids = np.repeat(np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32), n_equal, axis=0)
    near = gpu_backend.nearest_cells(centroids, np.arange(3 * n_equal), 4)
    np.testing.assert_array_equal(near, np.arange(3 * n_equal)[:, None] // n_equal * n_equal + np.arange(4))


def test_far_from_the_origin_and_tiles_of_other_sizes_change_no_cell():
    rng = np.random.default_rng(1)
    centroids = (rng.normal(size=(300, 20)) + 50).astype(np.float32)
    results = [
        GpuBackend(HostRuntime(seed=seed, free=free)).nearest_cells(centroids, np.arange(300), 12)
        for seed, free in ((0, 1 << 33), (1, 0), (2, 1 << 17))
    ]
    assert_nearest(results[0], centroids, np.arange(300), 12)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("n_cells", [200, 400])
def test_each_tile_takes_two_launches_and_the_host_waits_twice(n_cells):
    """For the cells that must be compared with all others, and for the result, however many cells there are."""
    runtime = CountingRuntime(free=1 << 20)
    centroids = np.random.default_rng(0).normal(size=(n_cells, 4)).astype(np.float32)
    GpuBackend(runtime).nearest_cells(centroids, np.arange(n_cells), 8)
    n_tiles = math.ceil(n_cells / ((1 << 17) // (4 * n_cells)))
    assert runtime.counts == {"select_columns": n_tiles, "rank_candidates": n_tiles, "waits": 2}
