"""Weights by rank, and lists with their tails."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.rank_weights import join_tail, rank_weights
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.params import AFFINITIES


@pytest.mark.parametrize("kind", AFFINITIES)
@pytest.mark.parametrize("k", [1, 2, 15, 1000])
def test_rank_weights_sum_to_one_and_decrease(kind, k):
    weights = rank_weights(k, kind)
    assert weights.shape == (k,)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (weights > 0).all()
    assert (np.diff(weights) <= 0).all()


def test_rank_weights_are_the_formulas():
    for i in range(1, 8):
        assert rank_weights(8, "log")[i] / rank_weights(8, "log")[0] == pytest.approx(1 / np.log2(i + 2))
        assert rank_weights(8, "inverse")[i] / rank_weights(8, "inverse")[0] == pytest.approx(1 / (i + 1))
        shifted = rank_weights(8, "shifted-inverse")
        assert shifted[i] / shifted[0] == pytest.approx(3 / (i + 3))
        softmax = rank_weights(8, "softmax-inverse")
        assert softmax[i] / softmax[0] == pytest.approx(np.exp(1 / (i + 1) - 1))
        assert rank_weights(8, "uniform")[i] == pytest.approx(1 / 8)


@pytest.mark.parametrize("kind", AFFINITIES)
def test_a_neighbor_in_the_tail_stands_for_four_ranks(kind):
    whole, tailed = rank_weights(15 + 4 * 10, kind), rank_weights(15, kind, 10)
    assert tailed.shape == (25,)
    assert tailed.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(tailed[:15] / tailed[0], whole[:15] / whole[0], rtol=1e-6)
    np.testing.assert_allclose(tailed[15:] / tailed[0], whole[15:].reshape(10, 4).sum(axis=1) / whole[0], rtol=5e-3)


def test_what_is_in_list_and_tail_counts_once():
    ids, tail = np.array([[1, 2], [0, NO_ROW], [0, 1]], np.uint32), np.array([[3, 2], [2, NO_ROW], [1, 0]], np.uint32)
    joined = [[1, 2, 3, NO_ROW], [0, NO_ROW, 2, NO_ROW], [0, 1, NO_ROW, NO_ROW]]
    np.testing.assert_array_equal(join_tail(ids, tail), joined)
    assert join_tail(ids, tail).dtype == np.uint32
