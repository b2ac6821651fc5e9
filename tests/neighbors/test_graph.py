"""Weights by rank and the symmetric graph, against dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.neighbors.graph import join_tail, neighbor_weights, rank_weights, symmetric_graph
from nomad_dask.params import AFFINITIES


@pytest.mark.parametrize("kind", AFFINITIES)
@pytest.mark.parametrize("k", [1, 2, 15, 1000])
def test_rank_weights_sum_to_one_and_decrease(kind, k):
    weights = rank_weights(k, kind)
    assert weights.shape == (k,)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights > 0).all()
    assert (np.diff(weights) <= 0).all()


def test_rank_weights_are_the_formulas():
    for i in range(1, 8):
        assert rank_weights(8, "log")[i] / rank_weights(8, "log")[0] == pytest.approx(1 / np.log2(i + 2))
        assert rank_weights(8, "inverse")[i] / rank_weights(8, "inverse")[0] == pytest.approx(1 / (i + 1))
        shifted = rank_weights(8, "shifted-inverse")
        assert shifted[i] / shifted[0] == pytest.approx(2 / (i + 2))
        softmax = rank_weights(8, "softmax-inverse")
        assert softmax[i] / softmax[0] == pytest.approx(np.exp(1 / (i + 1) - 1))
        assert rank_weights(8, "uniform")[i] == pytest.approx(1 / 8)


@pytest.mark.parametrize("kind", AFFINITIES)
def test_a_neighbor_in_the_tail_stands_for_four_ranks(kind):
    whole, tailed = rank_weights(15 + 4 * 10, kind), rank_weights(15, kind, 10)
    assert tailed.shape == (25,)
    assert tailed.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(tailed[:15] / tailed[0], whole[:15] / whole[0])
    np.testing.assert_allclose(tailed[15:] / tailed[0], whole[15:].reshape(10, 4).sum(axis=1) / whole[0], rtol=5e-3)


def test_what_is_in_list_and_tail_counts_once():
    ids, tail = np.array([[1, 2], [0, -1], [0, 1]], np.int32), np.array([[3, 2], [2, -1], [1, 0]], np.int32)
    np.testing.assert_array_equal(join_tail(ids, tail), [[1, 2, 3, -1], [0, -1, 2, -1], [0, 1, -1, -1]])
    assert join_tail(ids, tail).dtype == np.int32


@st.composite
def neighbors(draw: st.DrawFn) -> np.ndarray:
    """Ids (n, k) of distinct other rows, -1 at the end where there are fewer."""
    n = draw(st.integers(1, 25))
    k = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    ids = np.full((n, k), -1, np.int32)
    for i in range(n):
        n_neighbors = draw(st.integers(0, min(k, n - 1)))
        ids[i, :n_neighbors] = rng.choice(np.delete(np.arange(n), i), n_neighbors, replace=False)
    return ids


@given(ids=neighbors(), kind=st.sampled_from(AFFINITIES))
def test_weights_are_normalized_over_the_neighbors_of_a_row(ids, kind):
    weights = neighbor_weights(ids, kind)
    assert weights.dtype == np.float32
    assert weights.shape == ids.shape
    for row, has_neighbor in zip(weights, ids >= 0, strict=True):
        assert (row[~has_neighbor] == 0).all()
        if has_neighbor.any():
            expected = rank_weights(ids.shape[1], kind)[: has_neighbor.sum()]
            np.testing.assert_allclose(row[has_neighbor], expected / expected.sum(), rtol=1e-6)


@given(ids=neighbors(), seed=st.integers(0, 100))
def test_the_graph_is_p_and_its_transpose(ids, seed):
    n = len(ids)
    conditional_p = np.where(ids >= 0, np.random.default_rng(seed).uniform(0.1, 1, ids.shape), 0).astype(np.float32)
    p = np.zeros((n, n))
    for i, (row, weights) in enumerate(zip(ids, conditional_p, strict=True)):
        for j, weight in zip(row, weights, strict=True):
            if j >= 0:
                p[i, j] = weight
    graph = symmetric_graph(ids, conditional_p)
    assert (graph.indptr.dtype, graph.indices.dtype) == (np.int64, np.int32)
    assert (graph.weights.dtype, graph.conditional_p.dtype) == (np.float32, np.float32)
    assert graph.indptr[0] == 0
    assert graph.indptr[-1] == len(graph.indices) == len(graph.weights) == len(graph.conditional_p)
    a, directed = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        part = slice(graph.indptr[i], graph.indptr[i + 1])
        assert (np.diff(graph.indices[part]) > 0).all(), "columns are sorted and distinct"
        a[i, graph.indices[part]] = graph.weights[part]
        directed[i, graph.indices[part]] = graph.conditional_p[part]
    np.testing.assert_allclose(a, p + p.T, rtol=1e-6)
    np.testing.assert_allclose(directed, p, rtol=1e-6)
    np.testing.assert_array_equal(a > 0, (p + p.T) > 0)
    np.testing.assert_array_equal(a, a.T)
