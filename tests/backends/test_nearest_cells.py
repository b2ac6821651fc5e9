from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from nomad_dask.backends import cell_groups, group_search
from nomad_dask.backends import nearest_cells as module
from nomad_dask.backends.nearest_cells import MAX_COMPARED_CELLS, nearest_cells
from nomad_dask.utils.threads import Threads, thread_pool


@given(
    n=st.integers(1, 60), m=st.integers(1, 70), d=st.integers(1, 5), far=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 20), ends=st.tuples(st.integers(0, 60), st.integers(0, 60)), grouped=st.booleans(),
    bunch=st.sampled_from([2, 16]), few=st.sampled_from([0, 3072]),
)  # fmt: skip
def test_equal_brute_force(n, m, d, far, seed, ends, grouped, bunch, few):
    """So few cells are all in the sample, of whose nearest cells none is missed here, so groups are exact too."""
    centroids = (np.random.default_rng(seed).normal(size=(n, d)) + far).astype(np.float32)
    first, last = sorted(min(end, n) for end in ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_COMPARED_CELLS", 1 if grouped else n)
        patch.setattr(cell_groups, "GROUP_CELLS", 4)
        patch.setattr(group_search, "_SHARE_MISSED", 0)
        patch.setattr(group_search, "_FEW_CELLS", few)
        patch.setattr(module, "_BUNCH", bunch)
        near = nearest_cells(centroids, np.arange(first, last), m)
    assert near.shape == (last - first, min(m, n))
    x = centroids.astype(np.float64)
    gaps = ((x[first:last, None] - x) ** 2).sum(axis=2)
    expected = np.sort(gaps, axis=1)[:, : near.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(gaps, near, axis=1), expected, rtol=1e-3, atol=1e-3)
    for row in near:
        assert len(set(row)) == len(row)


def many_centroids(n=12_000, d=24):
    """Return centroids in the order of a tree, of clusters that overlap."""
    rng = np.random.default_rng(0)
    parents = rng.normal(size=(110, d))
    centroids = parents[np.arange(n) * 110 // n] + rng.normal(size=(n, d)) * rng.uniform(0.3, 1.2, size=(n, 1))
    return centroids.astype(np.float32)


@pytest.mark.parametrize("group_cells", [cell_groups.GROUP_CELLS, 4])
def test_of_many_cells_hardly_any_near_one_is_missed(monkeypatch, group_cells):
    """Of cells in so small groups there are as many regions as of eight times as many cells."""
    monkeypatch.setattr(cell_groups, "GROUP_CELLS", group_cells)
    centroids, chosen = many_centroids(), np.arange(0, 12_000, 40)
    assert len(centroids) > MAX_COMPARED_CELLS
    near = nearest_cells(centroids, np.arange(len(centroids)), 64)
    expected = NearestNeighbors(n_neighbors=64, algorithm="brute").fit(centroids.astype(np.float64))
    expected = expected.kneighbors(centroids[chosen].astype(np.float64), return_distance=False)
    found = np.array([np.isin(b, a) for a, b in zip(near[chosen], expected, strict=True)])
    assert found[:, 0].all()  # a cell itself
    assert found[:, :16].mean() > 0.99
    assert found.mean() > 0.98
    gaps = np.linalg.norm(centroids[chosen, None].astype(np.float64) - centroids[near[chosen]], axis=2)
    assert (np.diff(gaps, axis=1) > -1e-3).all()  # nearest first


def clusters_of_clusters(n=40_000, d=32):
    """Return centroids in clusters of three levels, in an order that keeps these together, with a falling spectrum."""
    rng = np.random.default_rng(1)
    scales = np.arange(1, d + 1) ** -0.6
    centroids = rng.normal(size=(n, d)) * rng.uniform(0.3, 1.2, size=(n, 1))
    for n_clusters, size in ((12, 1.0), (300, 0.7), (3000, 0.5)):
        centroids += size * rng.normal(size=(n_clusters, d))[np.arange(n) * n_clusters // n]
    return (centroids * scales).astype(np.float32)


@pytest.mark.parametrize("in_order", [True, False])
def test_of_40_000_cells_hardly_any_near_one_is_missed(in_order):
    centroids, chosen = clusters_of_clusters(), np.arange(0, 40_000, 160)
    if not in_order:
        centroids = np.random.default_rng(2).permutation(centroids)
    near = nearest_cells(centroids, chosen, 64)
    expected = NearestNeighbors(n_neighbors=64, algorithm="brute").fit(centroids.astype(np.float64))
    expected = expected.kneighbors(centroids[chosen].astype(np.float64), return_distance=False)
    found = np.array([np.isin(b, a) for a, b in zip(near, expected, strict=True)])
    assert found[:, 0].all()  # a cell itself
    assert found[:, :16].mean() > 0.995
    assert found.mean() > 0.99


def test_threads_change_nothing_about_40_000_cells():
    centroids, chosen = clusters_of_clusters(), np.arange(0, 40_000, 7)
    with thread_pool(1) as pool:  # as a worker's: threads of BLAS round products differently
        expected = nearest_cells(centroids, chosen, 20, pool.run)
    with thread_pool(3) as pool:
        np.testing.assert_array_equal(nearest_cells(centroids, chosen, 20, pool.run), expected)


def test_threads_and_ranges_change_nothing():
    centroids = many_centroids()
    with thread_pool(1) as pool:
        expected = nearest_cells(centroids, np.arange(len(centroids)), 20, pool.run)
    with thread_pool(3) as pool:
        np.testing.assert_array_equal(nearest_cells(centroids, np.arange(len(centroids)), 20, pool.run), expected)
    part = nearest_cells(centroids, np.arange(5000, 5700), 20, Threads(1).run)
    assert np.mean(part == expected[5000:5700]) > 0.999  # products of other sizes may round differently


def test_equal_cells_have_neighbors_all_the_same():
    centroids = np.repeat(many_centroids(100), 100, axis=0)
    near = nearest_cells(centroids, np.arange(len(centroids)), 64)
    np.testing.assert_array_equal(near // 100, np.repeat(np.arange(100), 100)[:, None] + np.zeros(64, int))
    assert all(len(set(row)) == 64 for row in near[::97])
