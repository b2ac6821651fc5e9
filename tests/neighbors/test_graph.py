"""Weights by rank and the symmetric graph, against dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.neighbors import graph as module
from nomad_dask.neighbors.graph import NO_ROW, WeightedLists, graph_ranges, join_tail, rank_weights, symmetric_graph
from nomad_dask.params import AFFINITIES
from nomad_dask.utils.threads import thread_pool


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


@st.composite
def neighbors(draw: st.DrawFn) -> np.ndarray:
    """Ids (n, k) of distinct other rows, some of them outside the graph; none at the end where there are fewer."""
    n = draw(st.integers(1, 25))
    k = draw(st.integers(0, 6))
    n_outside = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    ids = np.full((n, k), NO_ROW)
    for i in range(n):
        n_neighbors = draw(st.integers(0, min(k, n - 1)))
        ids[i, :n_neighbors] = rng.choice(np.delete(np.arange(n + n_outside), i), n_neighbors, replace=False)
    return ids


def dense_p(ids: np.ndarray, kind: str) -> np.ndarray:
    """Return p(j|i) (n, m) float64, with columns for the rows outside the graph too."""
    p = np.zeros((len(ids), len(ids) + 5))
    for i, row in enumerate(ids):
        has_neighbor = row != NO_ROW
        weights = rank_weights(max(ids.shape[1], 1), kind)[: has_neighbor.sum()]
        p[i, row[has_neighbor]] = weights / weights.sum() if has_neighbor.any() else 0
    return p


@given(ids=neighbors(), kind=st.sampled_from(AFFINITIES))
def test_the_graph_is_p_and_its_transpose(ids, kind):
    n = len(ids)
    p = dense_p(ids, kind)[:, :n]
    graph = symmetric_graph(WeightedLists.of(ids, kind))
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


@given(ids=neighbors(), kind=st.sampled_from(AFFINITIES))
def test_edges_to_rows_outside_the_graph_have_the_rest_of_p(ids, kind):
    n = len(ids)
    (chunk,) = WeightedLists.of(ids, kind).chunks()
    rows, outside, p = chunk.outside()
    assert (rows.dtype, outside.dtype, p.dtype) == (np.int32, np.uint32, np.float32)
    actual = np.zeros((n, n + 5))
    actual[rows, outside] = p
    expected = dense_p(ids, kind)
    expected[:, :n] = 0
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert len(rows) == (expected > 0).sum()


@given(ids=neighbors(), step=st.integers(1, 30), with_conditional_p=st.booleans())
def test_the_graph_of_all_rows_is_that_of_its_ranges(ids, step, with_conditional_p):
    lists = WeightedLists.of(ids, "log")
    whole = symmetric_graph(lists, with_conditional_p)
    parts = [
        symmetric_graph(lists, with_conditional_p, (first, min(first + step, len(ids))))
        for first in range(0, len(ids), step)
    ]
    for name in ("indices", "weights", "conditional_p")[: 2 + with_conditional_p]:
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    np.testing.assert_array_equal(np.concatenate([np.diff(part.indptr) for part in parts]), np.diff(whole.indptr))
    assert (whole.conditional_p is None) == (not with_conditional_p)


@given(ids=neighbors(), first=st.integers(0, 25), n_threads=st.integers(1, 3))
def test_threads_and_chunks_change_nothing(ids, first, n_threads):
    lists, rows = WeightedLists.of(ids, "log"), (min(first, len(ids)), len(ids))
    expected = symmetric_graph(lists, rows=rows)
    with pytest.MonkeyPatch.context() as patch, thread_pool(n_threads) as pool:
        patch.setattr(module, "_ROWS_AT_ONCE", 7)
        patch.setattr(module, "_ROWS_OF_THREAD", 4)
        graph = symmetric_graph(lists, rows=rows, pool=pool)
    for name in ("indptr", "indices", "weights", "conditional_p"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(expected, name))


@pytest.mark.parametrize("n", [0, 1, 1 << 20, (1 << 20) + 1, 60_000_001])
def test_ranges_cover_all_rows_once_and_are_few(n):
    ranges = list(graph_ranges(n))
    assert [row for pair in ranges for row in pair] == [0, *np.repeat([b for _, b in ranges[:-1]], 2), n][
        : 2 * len(ranges)
    ]
    assert len(ranges) <= 16
