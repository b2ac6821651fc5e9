from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from nomad_dask.metrics.rank_correlation import rank_correlation
from nomad_dask.metrics.sample import random_pairs
from nomad_dask.metrics.scores import score
from tests.metrics.test_scores import Rows, noisy_map


def test_equals_scipy_over_the_same_pairs():
    X, Y = noisy_map(0, n=200)
    got = score(Rows(X), Y, n_queries=40, n_triplets=800, random_state=2)
    rng = np.random.default_rng(2)
    chosen = np.sort(rng.choice(200, 40, replace=False))
    ends = random_pairs(rng, chosen, 200, 20).reshape(40, -1)
    starts = np.repeat(chosen, 40)
    distances = [np.linalg.norm(rows[starts].astype(float) - rows[ends.ravel()], axis=1) for rows in (X, Y)]
    assert got.rank_correlation.value == pytest.approx(spearmanr(*distances).statistic, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_influence_is_the_change_by_leaving_queries_out(seed, ties):
    """The interval is that of the jackknife, which leaves out one query at a time."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 15)) + rng.normal(size=(40, 1))
    y = x + rng.normal(size=x.shape)
    if ties:
        x, y = np.round(x * 2), np.round(y * 2)
    got = rank_correlation(x, y)
    without = [spearmanr(np.delete(x, i, 0), np.delete(y, i, 0), axis=None).statistic for i in range(40)]
    error = np.sqrt(39 / 40 * ((without - np.mean(without)) ** 2).sum())
    assert got.value == pytest.approx(spearmanr(x, y, axis=None).statistic, abs=1e-12)
    assert (got.high - got.value) / 1.959964 == pytest.approx(error, rel=0.1)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_any_increasing_function_of_distances_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.gamma(2, size=(2, 12, 9))
    assert rank_correlation(x, y) == rank_correlation(np.log(x), y**3)
    assert rank_correlation(x, np.exp(x)).value == pytest.approx(1, abs=1e-12)
    assert rank_correlation(x, -x).value == pytest.approx(-1, abs=1e-12)


def test_the_data_itself_has_one_and_random_positions_zero():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    own = score(Rows(X), X).rank_correlation
    assert (own.value, own.high) == (pytest.approx(1, abs=1e-12), 1)
    of_noise = score(Rows(X), rng.normal(size=(2000, 2))).rank_correlation
    assert of_noise.value == pytest.approx(0, abs=0.02)
    assert of_noise.low <= 0 <= of_noise.high


def test_equal_distances_have_no_order():
    X, _ = noisy_map(2)
    got = score(Rows(X), np.zeros((300, 2))).rank_correlation
    assert (got.value, got.low, got.high) == (0, 0, 0)


def test_one_query_says_little():
    X, Y = noisy_map(3)
    got = score(Rows(X), Y, n_queries=1).rank_correlation
    assert (got.low, got.high) == (-1, 1)
    assert 0 < got.value < 1
