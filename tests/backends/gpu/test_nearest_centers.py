"""The nearest center among those of a row's own group, against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.gpu.nearest_centers import find_nearest, find_nearest_of_picks, make_tiles, sort_by_label
from tests.helpers.host_runtime import HostRuntime

RUNTIME = HostRuntime()


def to_offsets(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def brute_force(rows: np.ndarray, row_offsets: np.ndarray, centers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the squared distances of the rows to all centers in float64; infinite to those of other groups."""
    gaps = rows[:, None].astype(np.float64) - centers[None].astype(np.float64)
    squared = (gaps**2).sum(axis=2)
    groups = np.repeat(np.arange(len(row_offsets) - 1), np.diff(row_offsets))
    groups_of_centers = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.where(groups[:, None] == groups_of_centers, squared, np.inf)


@settings(max_examples=15)
@given(
    groups=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90)), min_size=1, max_size=4),
    d=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_the_nearest_center_of_the_own_group_is_found(groups, d, seed):
    rng = np.random.default_rng(seed)
    row_offsets, offsets = (to_offsets(list(sizes)) for sizes in zip(*groups, strict=True))
    rows = rng.normal(size=(row_offsets[-1], d)).astype(np.float32)
    centers = rng.normal(size=(offsets[-1], d)).astype(np.float32)
    labels = find_nearest(rows, make_tiles(row_offsets, offsets, RUNTIME), centers, RUNTIME)
    squared = brute_force(rows, row_offsets, centers, offsets)
    assert labels.dtype == np.int32
    chosen = squared[np.arange(len(rows)), labels]
    np.testing.assert_allclose(chosen, squared.min(axis=1), rtol=1e-5, atol=1e-4)


def test_rows_can_be_in_several_groups():
    rng = np.random.default_rng(1)
    rows, centers = rng.normal(size=(90, 17)).astype(np.float32), rng.normal(size=(75, 17)).astype(np.float32)
    row_offsets, offsets = to_offsets([200, 0, 131]), to_offsets([70, 2, 3])
    picks = rng.integers(90, size=331).astype(np.int32)
    tiles = make_tiles(row_offsets, offsets, RUNTIME)
    labels, distances = find_nearest_of_picks(rows, picks, tiles, centers, RUNTIME)
    squared = brute_force(rows[picks], row_offsets, centers, offsets)
    np.testing.assert_array_equal(labels, squared.argmin(axis=1))
    norms = (rows[picks].astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(distances, (squared.min(axis=1) - norms) / 2, rtol=1e-5, atol=1e-5)


def test_of_equal_centers_the_first_is_nearest():
    rows = np.ones((5, 3), np.float32)
    tiles = make_tiles(np.array([0, 5]), np.array([0, 200]), RUNTIME)
    labels = find_nearest(rows, tiles, np.tile(rows[:1], (200, 1)), HostRuntime(seed=4))
    np.testing.assert_array_equal(labels, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_sorted_without_changing_the_order_of_equal_ones(seed):
    labels = np.random.default_rng(seed).integers(5, size=40).astype(np.int32)
    order, offsets = sort_by_label(labels, 7, RUNTIME)
    for label in range(7):
        np.testing.assert_array_equal(order[offsets[label] : offsets[label + 1]], np.flatnonzero(labels == label))
