from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.cell_groups import GROUP_CELLS, CellGroups, Ranges
from nomad_dask.backends.group_search import GroupSearch, tune_search
from nomad_dask.utils.threads import Threads, thread_pool

ALONE = Threads(1).run


@settings(max_examples=30)
@given(
    n=st.integers(1, 3000), d=st.integers(1, 6), n_distinct=st.integers(1, 3000), m=st.integers(1, 3000),
    seed=st.integers(0, 20),
)  # fmt: skip
def test_groups_are_small_and_enough_are_searched(n, d, n_distinct, m, seed):
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(n_distinct, d)).astype(np.float32)[rng.integers(n_distinct, size=n)]
    grouped = CellGroups(centroids, ALONE)
    np.testing.assert_array_equal(np.sort(grouped.cells), np.arange(n))
    np.testing.assert_array_equal(grouped.centroids, centroids[grouped.cells])
    assert grouped.groups.sizes.sum() == n
    assert 1 <= grouped.groups.sizes.min() <= grouped.groups.sizes.max() <= 2 * GROUP_CELLS
    assert grouped.regions.sizes.sum() == len(grouped.groups.sizes)
    around = GroupSearch(grouped, 1, 1).around(grouped.centroids[:1], min(m, n))
    assert len(around) >= min(m, n)
    assert (np.diff(around) > 0).all()
    assert 0 <= around[0] <= around[-1] < n


def test_ranges_near_any_point_are_as_by_brute_force():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, size=200)
    points = rng.normal(size=(sizes.sum(), 7)).astype(np.float32)
    ranges = Ranges(points, sizes)
    parts = np.split(np.arange(len(points)), np.cumsum(sizes)[:-1])
    means = np.array([points[part].astype(np.float64).mean(axis=0) for part in parts])
    np.testing.assert_allclose(ranges.means, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ranges.expand(np.array([7, 3])), np.concatenate([parts[7], parts[3]]))
    np.testing.assert_array_equal(ranges.owners()[parts[5]], 5)
    numbers, queries = np.arange(0, 200, 2), points[:5]
    gaps = np.linalg.norm(queries[:, None].astype(np.float64) - means[numbers], axis=2)
    order = np.argsort(gaps, axis=1)
    ranks = ranges.ranks(queries, numbers)
    assert (ranks[1::2] == 200).all()
    for n_wanted in (1, 10, 100):
        expected = np.unique(numbers[order[:, :n_wanted]])
        np.testing.assert_array_equal(ranges.near(queries, numbers, n_wanted), expected)
        np.testing.assert_array_equal(np.flatnonzero(ranks <= n_wanted), expected)


def test_the_cells_nearest_to_the_sample_are_searched():
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(6000, 8)).astype(np.float32)
    grouped = CellGroups(centroids, ALONE)
    sample = np.arange(0, 6000, 50)
    x = grouped.centroids.astype(np.float64)
    nearest = np.argsort(((x[sample, None] - x) ** 2).sum(axis=2), axis=1)[:, :40]
    search = tune_search(grouped, sample, nearest, ALONE)
    assert 1 < search.n_groups < len(grouped.groups.sizes) / 2
    assert 1 < search.n_regions < len(grouped.regions.sizes)
    found = []
    for place, cells in zip(sample, nearest, strict=True):
        members = grouped.groups.expand(grouped.groups.owners()[[place]])
        found.append(np.isin(cells, search.around(grouped.centroids[members], 40)))
    assert np.mean(found) >= 0.998
    with thread_pool(3) as pool:
        assert tune_search(grouped, sample, nearest, pool.run) == search
