"""The scores of rows that were transformed."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from benchmarks.transform import METHODS, N_SCORED, nearest, prepare, scores

X = np.random.default_rng(0).normal(size=(800, 5)).astype(np.float32)


def test_neighbors_are_those_of_scikit_learn():
    search = NearestNeighbors(n_neighbors=50).fit(X[100:])
    np.testing.assert_array_equal(nearest(X[:100], X[100:], 50), search.kneighbors(X[:100], return_distance=False))
    own = np.arange(0, 700, 9)
    expected = search.kneighbors(return_distance=False)[own]
    np.testing.assert_array_equal(nearest(X[100:][own], X[100:], 50, own), expected)


def test_scores_of_a_map_that_keeps_everything(tmp_path):
    labels = (X[:, 0] > 0).astype(int)
    truth = prepare(X, labels, tmp_path)
    fitted, new = np.load(tmp_path / "fitted.npy"), np.load(tmp_path / "new.npy")
    assert (len(fitted), len(new)) == (720, 80)
    assert len(np.unique(np.concatenate([fitted, new]), axis=0)) == len(X)
    found = scores(truth["new"], nearest(new, fitted, 50), truth["labels"], truth["new_labels"])
    assert [found[f"NP@{k}"] for k in (10, 15, 50)] == [1, 1, 1]
    reference = KNeighborsClassifier(10).fit(fitted, truth["labels"]).score(new, truth["new_labels"])
    assert abs(found["label acc"] - reference) < 0.05, "ties are decided differently"
    random = np.random.default_rng(1).permutation(720)[: 80 * 9].reshape(80, 9)
    assert scores(truth["new"], np.tile(random, 6), truth["labels"], truth["new_labels"])["NP@50"] < 0.1


def test_the_sample_is_bounded(tmp_path):
    many = np.random.default_rng(0).normal(size=(N_SCORED + 2000, 2)).astype(np.float32)
    truth = prepare(many, np.zeros(len(many)), tmp_path)
    assert len(truth["sample"]) == N_SCORED
    assert len(truth["new"]) == len(many) // 10


def test_our_method_fits_and_transforms():
    positions, transform = METHODS["nomad"](X[:700], 0)
    assert (positions.shape, transform(X[700:]).shape) == ((700, 2), (100, 2))
