from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin

from nomad_dask.metrics.centroids import (
    GroupCentroids,
    StreamingCentroids,
    centroid_triplet_accuracy,
    kmeans_centers,
    largest_groups,
    nearest_centers,
)
from nomad_dask.metrics.scores import score
from nomad_dask.utils.threads import Threads
from tests.metrics.test_scores import Rows, exhaustive_triplets, noisy_map

POOL = Threads(2)


def class_means(X, labels):
    return np.array([X[labels == label].astype(np.float64).mean(axis=0) for label in np.unique(labels)])


@pytest.mark.parametrize("n_classes", [3, 8, 40])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_triplets_of_labels_equal_all_triplets_of_class_means(n_classes, metric):
    X, Y = noisy_map(0, n=2000)
    labels = np.argsort(np.argsort(X[:, 0])) * n_classes // 2000  # distances of random labels would be close
    got = score(Rows(X), Y, labels=labels, metric=metric, n_queries=20)
    unit = X.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True) if metric == "cosine" else unit
    expected = exhaustive_triplets(class_means(unit, labels), class_means(Y, labels))
    assert got.centroid_triplets.value == pytest.approx(expected, abs=1e-12)
    assert got.centroid_triplets.low == got.centroid_triplets.high == got.centroid_triplets.value
    assert got.n_centroids == n_classes


def test_rows_without_a_label_are_in_no_group():
    X, Y = noisy_map(1, n=600)
    labels = (np.arange(600) % 5).astype(float)
    missing = np.arange(600) % 7 == 0
    got = score(Rows(X), Y, labels=np.where(missing, np.nan, labels))
    expected = exhaustive_triplets(*(class_means(rows[~missing], labels[~missing]) for rows in (X, Y)))
    assert got.centroid_triplets.value == pytest.approx(expected, abs=1e-12)


def test_of_many_labels_the_most_frequent_count():
    X, Y = noisy_map(2, n=3000)
    labels = np.minimum(np.arange(3000), 2999 - np.arange(3000) // 2)  # the last thousand labels have two rows
    values, counts = np.unique(labels, return_counts=True)
    assert (counts > 1).sum() > 256
    got = score(Rows(X), Y, labels=labels)
    assert got.n_centroids == 256
    first = values[counts == counts.max()][:256]
    kept = np.isin(labels, first)
    expected = exhaustive_triplets(*(class_means(rows[kept], labels[kept]) for rows in (X, Y)))
    assert got.centroid_triplets.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [np.arange(300) % 2, np.zeros(300)])
def test_fewer_than_three_labels_have_no_triplets(labels):
    X, Y = noisy_map(3)
    got = score(Rows(X), Y, labels=labels)
    assert got.centroid_triplets is None
    assert got.n_centroids == np.unique(labels).size
    assert got.as_dict()["centroid_triplets"] is None


def test_without_labels_triplets_are_of_groups_around_kmeans_centers():
    X, Y = noisy_map(4, n=1500)
    got = score(Rows(X), Y, n_queries=400, random_state=3)
    chosen = np.sort(np.random.default_rng(3).choice(1500, 400, replace=False))
    groups = pairwise_distances_argmin(X.astype(np.float64), kmeans_centers(X[chosen].astype(np.float64), POOL))
    expected = exhaustive_triplets(class_means(X, groups), class_means(Y, groups))
    assert got.centroid_triplets.value == pytest.approx(expected, abs=1e-12)
    assert got.n_centroids == np.unique(groups).size == 20


def test_kmeans_centers_are_those_of_scikit_learn():
    X, _ = noisy_map(5, n=1000, dtype=np.float64)
    start = np.unique(X[np.arange(50) * 20], axis=0)
    expected = KMeans(50, init=start, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(X)
    got = kmeans_centers(X, POOL)
    assert got.shape == (50, 12)
    inertia = (pairwise_distances(X, got).min(axis=1) ** 2).sum()
    assert inertia == pytest.approx(expected.inertia_, rel=1e-3)


def test_equal_rows_are_one_group():
    X = np.repeat(np.random.default_rng(0).normal(size=(4, 5)), 100, axis=0)
    got = score(Rows(X), X[:, :2])
    assert got.n_centroids == 4
    assert score(Rows(np.ones((90, 3))), np.random.default_rng(0).normal(size=(90, 2))).centroid_triplets is None


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), power=st.sampled_from([-900, -300, 0, 300, 900]), n_centers=st.integers(1, 30))
def test_nearest_centers_by_differences(seed, power, n_centers):
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(700, 3)) * 2)  # many ties
    centers = np.round(rng.normal(size=(n_centers, 3)) * 2)
    expected = ((X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)  # exact, so the first of equally near ones
    got = nearest_centers(np.ldexp(X, power), np.ldexp(centers, power), POOL)
    np.testing.assert_array_equal(got, expected)


def test_nearest_centers_that_expanded_squares_cannot_tell():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4)) + 1e8
    centers = X[:20] + rng.normal(size=(20, 4)) * 1e-3
    expected = ((X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest_centers(X, centers, POOL), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), block=st.integers(1, 80), offset=st.sampled_from([0.0, 1e9]))
def test_streamed_centroids_are_the_means_whatever_the_blocks(seed, block, offset):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 9)) + offset
    groups = rng.integers(-1, 6, size=200)
    groups[groups == 2] = 3  # no row
    parts, whole = (StreamingCentroids(6, X[0]) for _ in range(2))
    whole.update(X, groups, POOL)
    for start in range(0, 200, block):
        parts.update(X[start : start + block], groups[start : start + block], POOL)
    assert np.array_equal(parts.means(), whole.means())
    assert np.array_equal(parts.counts, [np.count_nonzero(groups == g) for g in range(6)])
    np.testing.assert_allclose(parts.means(), class_means(X - X[0], groups)[1:], atol=1e-12)


def test_groups_are_in_order_of_frequency():
    codes = np.array([4, 0, 0, -1, 2, 2, 2, 4])
    assert largest_groups(codes).tolist() == [2, 1, 1, -1, 0, 0, 0, 2]


def test_centroids_of_one_row_each_are_the_rows():
    X, Y = noisy_map(6, n=30, dtype=np.float64)
    groups = GroupCentroids(np.arange(30), X, Y.astype(np.float64), POOL)
    groups.update(X, Y.astype(np.float64), 0, POOL)
    assert centroid_triplet_accuracy(*groups.means()).value == pytest.approx(exhaustive_triplets(X, Y), abs=1e-12)


@pytest.mark.parametrize("labels", [None, np.arange(500) % 20])
def test_turns_scales_and_shifts_of_either_side_change_nothing(labels):
    X, Y = noisy_map(7, n=500, dtype=np.float64)
    turn_x, turn_y = ortho_group.rvs(12, random_state=0), ortho_group.rvs(2, random_state=0)
    expected = score(Rows(X), Y, labels=labels)
    got = score(Rows(X @ turn_x * 3.7 + 11), Y @ turn_y * 0.2 - 5, labels=labels)
    assert got.centroid_triplets == expected.centroid_triplets
    assert got.rank_correlation.value == pytest.approx(expected.rank_correlation.value, abs=1e-9)


@pytest.mark.parametrize("labels", [None, np.arange(2000) % 60])
def test_the_data_itself_has_one_and_random_or_equal_positions_one_half(labels):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2)).astype(np.float32)
    assert score(Rows(X), X, labels=labels).centroid_triplets.value == 1
    # Centroids of random groups of a random map are random.
    random = score(Rows(X), rng.normal(size=(2000, 2)), labels=labels).centroid_triplets.value
    assert random == pytest.approx(0.5, abs=0.05)
    assert score(Rows(X), np.zeros((2000, 2)), labels=labels).centroid_triplets.value == pytest.approx(0.5, abs=1e-12)
