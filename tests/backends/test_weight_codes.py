"""Codes of weights, against the weights themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.backends.weight_codes import N_LEVELS, encode_weights, weight_levels
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.params import AFFINITIES


def random_lists(n: int, k: int, seed: int) -> np.ndarray:
    """Return distinct neighbors (n, k) of each row, some of them missing."""
    rng = np.random.default_rng(seed)
    ids = np.array([rng.choice(np.delete(np.arange(n), i), k, replace=False) for i in range(n)]).astype(np.uint32)
    ids[rng.random(ids.shape) < 0.2] = NO_ROW
    return ids


@given(n=st.integers(2, 30), k=st.integers(1, 25), kind=st.sampled_from(AFFINITIES), seed=st.integers(0, 1000))
def test_every_weight_of_a_graph_is_near_that_of_its_code(n, k, kind, seed):
    lists = weigh_by_rank(random_lists(n, min(k, n - 1), seed), kind)
    weights, levels = symmetric_graph(lists).weights.astype(np.float64), weight_levels(lists)
    codes = encode_weights(weights.astype(np.float32), levels)
    assert (codes.dtype, levels.dtype, levels.shape) == (np.uint8, np.float32, (N_LEVELS,))
    half_step = (levels[-1] / levels[0]) ** (0.5 / (N_LEVELS - 1))
    ratios = levels[codes] / weights
    assert (ratios < half_step * (1 + 1e-5)).all()
    assert (ratios > (1 - 1e-5) / half_step).all()


def test_with_default_neighbors_no_weight_is_off_by_a_percent():
    ids = np.array([np.delete(np.arange(24), i) for i in range(24)]).astype(np.uint32)
    lists = weigh_by_rank(ids, "shifted-inverse")
    weights, levels = symmetric_graph(lists).weights, weight_levels(lists)
    np.testing.assert_allclose(levels[encode_weights(weights, levels)], weights, rtol=0.01)


@given(weights=st.lists(st.floats(0.0625, 2, width=32), min_size=1, max_size=50))
def test_codes_are_those_of_the_nearest_level(weights):
    levels = np.geomspace(0.0625, 2, N_LEVELS).astype(np.float32)
    codes = encode_weights(np.array(weights, np.float32), levels)
    distances = np.abs(np.log(levels.astype(np.float64)) - np.log(weights)[:, None])
    np.testing.assert_allclose(distances[np.arange(len(codes)), codes], distances.min(axis=1), atol=1e-6)


def test_codes_of_both_directions_are_equal():
    lists = weigh_by_rank(random_lists(40, 8, 0), "log")
    graph, levels = symmetric_graph(lists), weight_levels(lists)
    codes = np.full((40, 40), -1)
    codes[np.repeat(np.arange(40), np.diff(graph.indptr)), graph.indices] = encode_weights(graph.weights, levels)
    np.testing.assert_array_equal(codes, codes.T)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_without_edges_there_are_no_codes(shape):
    lists = weigh_by_rank(np.zeros(shape, np.uint32), "log")
    levels = weight_levels(lists)
    assert (levels > 0).all()
    assert encode_weights(symmetric_graph(lists).weights, levels).shape == (0,)
