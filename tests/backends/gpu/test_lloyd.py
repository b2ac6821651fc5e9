"""K-Means of many groups at once, against scikit-learn's on each of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus

from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.gpu import lloyd
from nomad_dask.backends.gpu.kmeans import assign, fit_cells
from nomad_dask.backends.gpu.lloyd import N_ITERATIONS, RowGroups, fit_groups
from tests.backends.test_kmeans import rows as blobs
from tests.helpers.counting_runtime import CountingRuntime
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()


def to_groups(*parts: np.ndarray) -> RowGroups:
    return RowGroups(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]))


def fit(groups: RowGroups, n_centers: list[int], seed: int = 0, runtime: HostRuntime = RUNTIME):
    return fit_groups(groups, np.array(n_centers), seed, runtime)


def separated(n: int, k: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    return (10 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def inertia(x: np.ndarray, centers: np.ndarray) -> float:
    squared = ((x[:, None].astype(np.float64) - centers[None].astype(np.float64)) ** 2).sum(axis=2)
    return float(squared.min(axis=1).sum())


PARTS = {
    "blobs": (blobs(900, 10), 30),
    "a Gaussian": (np.random.default_rng(0).normal(size=(800, 16)).astype(np.float32), 25),
    "separated clusters, fewer than cells": (separated(700, 12, 5), 20),
    "separated clusters, as many as cells": (separated(900, 20, 8), 20),
    "a cluster of few rows": (np.concatenate([blobs(500, 4), blobs(9, 4) + 50]).astype(np.float32), 15),
}


def test_the_inertia_of_every_group_is_near_that_of_scikit_learn():
    """Within 3 %, of the mean over ten starts each; of one fit, where there are separated clusters, within 10 %."""
    for n_dims in sorted({x.shape[1] for x, _ in PARTS.values()}):
        named = {name: part for name, part in PARTS.items() if part[0].shape[1] == n_dims}
        groups, n_centers = to_groups(*(x for x, _ in named.values())), [k for _, k in named.values()]
        found = [np.split(fit(groups, n_centers, seed)[0], np.cumsum(n_centers)[:-1]) for seed in range(5)]
        for i, (name, (x, k)) in enumerate(named.items()):
            reference = np.mean([KMeans(k, n_init=1, random_state=seed).fit(x).inertia_ for seed in range(10)])
            ratios = [inertia(x, centers[i]) / reference for centers in found]
            assert np.mean(ratios) < 1.03, name
            assert max(ratios) < 1.1, name


def test_seeds_are_as_good_as_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(lloyd, "N_ITERATIONS", 0)
    x = separated(800, 20, 70)  # more dimensions than are in shared memory at a time
    ratios = []
    for seed in range(4):
        seeds, labels = fit(to_groups(x, x[:300]), [20, 4], seed)
        assert (seeds[:, None] == x).all(axis=2).any(axis=1).all()  # they are rows
        assert set(labels[:800]) == set(range(20))
        reference = np.mean([inertia(x, kmeans_plusplus(x, 20, random_state=s)[0]) for s in range(5)])
        ratios.append(inertia(x, seeds[:20]) / reference)
    assert np.mean(ratios) < 1.05


def test_rows_equal_to_a_seed_are_not_drawn(monkeypatch):
    """Whichever row is drawn first, the second is of the other kind: its squared distance is the only weight."""
    monkeypatch.setattr(lloyd, "N_ITERATIONS", 0)
    x = np.zeros((32, 1), np.float32)
    x[17] = 1
    for seed in range(3):
        seeds, _ = fit(to_groups(x), [2], seed)
        assert sorted(seeds.ravel()) == [0, 1]


def test_centers_are_the_means_of_their_rows():
    x = separated(600, 10, 6)
    centers, labels = fit(to_groups(x), [10])
    for cell in range(10):
        np.testing.assert_allclose(centers[cell], x[labels == cell].mean(axis=0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("largest", [1e-20, 1.0, 1e15])
def test_sums_are_exact_for_numbers_of_any_size(largest):
    rng = np.random.default_rng(0)
    x = (largest * rng.normal(size=(301, 33))).astype(np.float32)
    labels = rng.integers(4, size=301).astype(np.int32)
    scale = lloyd._fixed_point_scale(x, RUNTIME)
    sums = np.zeros((4, 34), np.int64)
    RUNTIME.launch("add_rows", 2, 32 * 301, x, labels, np.int64(301), np.int32(33), scale, sums)
    expected = np.zeros((4, 33))
    np.add.at(expected, labels, x.astype(np.float64))
    np.testing.assert_allclose(sums[:, :-1] / scale, expected, rtol=1e-9, atol=1e-12 * largest)
    np.testing.assert_array_equal(sums[:, -1], np.bincount(labels))


def test_the_order_of_threads_changes_nothing():
    groups = to_groups(blobs(500, 7), blobs(300, 7, seed=1), np.zeros((0, 7), np.float32), blobs(90, 7, seed=2))
    one, two = (fit(groups, [20, 5, 0, 3], 3, runtime) for runtime in (RUNTIME, HostRuntime(seed=5)))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    other, _ = fit(groups, [20, 5, 0, 3], 4)
    assert not np.array_equal(one[0], other)


def test_a_group_is_fitted_as_if_it_were_alone():
    """But for the draws, which are those of the first group."""
    one, two = blobs(500, 7), blobs(300, 7, seed=1)
    together, labels = fit(to_groups(one, two), [20, 5], 3)
    alone, labels_alone = fit(to_groups(one), [20], 3)
    np.testing.assert_allclose(together[:20], alone, rtol=1e-5, atol=1e-5)
    assert (labels[:500] == labels_alone).mean() > 0.99
    assert set(labels[500:]) == set(range(20, 25))


def test_few_different_rows_are_centers_themselves():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(4, 3)).astype(np.float32)
    centers, labels = fit(to_groups(kinds[rng.integers(4, size=50)], kinds[:3], kinds[:1]), [9, 3, 1])
    assert np.isfinite(centers).all()
    for part, expected in ((slice(0, 50), 4), (slice(50, 53), 3), (slice(53, 54), 1)):
        assert len(set(labels[part])) == expected
    np.testing.assert_array_equal(centers[12], kinds[0])


def test_tiny_cells_move_into_the_largest():
    """One cell per outlier would be best; their centers move, but for those of the last iterations."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3)).astype(np.float32)
    x[:8] *= 100
    _, labels = fit(to_groups(x), [20])
    sizes = np.bincount(labels, minlength=20)
    assert (sizes < 1000 / 20 / 8).sum() < 8


@pytest.mark.parametrize("n_groups", [1, 12])
def test_launches_and_waits_do_not_depend_on_the_number_of_groups(n_groups):
    runtime = CountingRuntime()
    parts = [blobs(60 + i, 4, seed=i) for i in range(n_groups)]
    fit(to_groups(*parts), [3 + i for i in range(n_groups)], runtime=runtime)
    assert runtime.counts == {
        "choose_seeds": 1,
        "nearest_center": N_ITERATIONS + 1,
        "add_rows": N_ITERATIONS,
        "waits": 1,  # for the largest number, which scales the sums
    }


@pytest.mark.parametrize("n_cells", [40, 160])
def test_launches_and_waits_do_not_depend_on_the_number_of_parents(n_cells, monkeypatch):
    monkeypatch.setattr(kmeans_tree, "MAX_FLAT_CELLS", 20)
    x = np.random.default_rng(0).uniform(size=(1600, 3)).astype(np.float32)
    runtime = CountingRuntime()
    cells = fit_cells(x, n_cells, 0, runtime)
    assert len(cells.parents) == round(n_cells**0.5)
    # One fit of the parents, and one of all cells: no cell of uniform rows is so large that it is split.
    assert runtime.counts["choose_seeds"] == 2
    assert runtime.counts["waits"] == 7
    runtime.counts.clear()
    assign(x, cells, runtime)
    assert runtime.counts == {"select_columns": 1, "nearest_center": 1, "waits": 2}
