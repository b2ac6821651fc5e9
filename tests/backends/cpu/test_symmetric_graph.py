"""The symmetric graph, against dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends import weighted_lists
from nomad_dask.backends.cpu import symmetric_graph as module
from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.rank_weights import rank_weights, weigh_by_rank
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.params import AFFINITIES
from nomad_dask.utils.threads import thread_pool


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
    graph = symmetric_graph(weigh_by_rank(ids, kind))
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
    (chunk,) = weigh_by_rank(ids, kind).chunks()
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
    lists = weigh_by_rank(ids, "log")
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
    lists, rows = weigh_by_rank(ids, "log"), (min(first, len(ids)), len(ids))
    expected = symmetric_graph(lists, rows=rows)
    with pytest.MonkeyPatch.context() as patch, thread_pool(n_threads) as pool:
        patch.setattr(weighted_lists, "_ROWS_AT_ONCE", 7)
        patch.setattr(module, "_ROWS_OF_THREAD", 4)
        graph = symmetric_graph(lists, rows=rows, pool=pool)
    for name in ("indptr", "indices", "weights", "conditional_p"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(expected, name))
