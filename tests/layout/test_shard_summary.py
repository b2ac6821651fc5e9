"""Summaries of shards: moments of patches against NumPy, and sizes that do not depend on the number of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.cpu.patch_moments import patch_moments
from nomad_dask.layout.remote_charges import RemoteCharges
from nomad_dask.layout.shard_summary import ShardSummary, merge_summaries


@given(
    n=st.integers(0, 60),
    n_patches=st.integers(1, 9),
    dim=st.sampled_from([2, 3]),
    far=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 50),
)
def test_moments_of_patches(n, n_patches, dim, far, seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, dim)) + far).astype(np.float32)
    patch_of_row = rng.integers(n_patches, size=n).astype(np.int32)
    counts = np.bincount(patch_of_row, minlength=n_patches)
    moments = patch_moments(points, patch_of_row, counts)
    assert moments.dtype == np.float32
    assert moments.shape == (n_patches, 2 * dim)
    for p in range(n_patches):
        rows = points[patch_of_row == p].astype(np.float64)
        mean, std = (rows.mean(0), rows.std(0)) if len(rows) else (np.zeros(dim), np.zeros(dim))
        np.testing.assert_allclose(moments[p, :dim], mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(moments[p, dim:], std, rtol=1e-3, atol=1e-3)


def make_summaries(n_shards: int, n_patches: int, dim: int, seed: int = 0) -> list[ShardSummary]:
    rng = np.random.default_rng(seed)
    return [
        ShardSummary(s, rng.uniform(0, 5, (n_patches, 2 * dim)).astype(np.float32), float(rng.uniform()))
        for s in range(n_shards)
    ]


@given(order=st.permutations(range(5)))
def test_the_order_of_arrival_does_not_matter(order):
    summaries = make_summaries(5, 4, 2)
    summary, shuffled = merge_summaries(summaries), merge_summaries([summaries[i] for i in order])
    np.testing.assert_array_equal(shuffled.patches, summary.patches)
    assert shuffled.partition_sums == summary.partition_sums
    for s in range(5):
        assert shuffled.remote_partition_sum(s) == summary.remote_partition_sum(s)


def test_patches_are_extrapolated_linearly():
    previous, last = merge_summaries(make_summaries(3, 4, 2)), merge_summaries(make_summaries(3, 4, 2, seed=1))
    extrapolated = last.extrapolate(previous, 0.5)
    np.testing.assert_allclose(extrapolated.patches, 1.5 * last.patches - 0.5 * previous.patches, rtol=1e-5, atol=1e-5)
    assert extrapolated.partition_sums == last.partition_sums


def test_partition_sum_of_other_shards():
    summaries = make_summaries(3, 2, 2)
    summary = merge_summaries(summaries)
    assert summary.remote_partition_sum(1) == pytest.approx(summaries[0].partition_sum + summaries[2].partition_sum)
    assert merge_summaries(summaries[:1]).remote_partition_sum(0) == 0
    unknown = [summaries[0], ShardSummary(1, summaries[1].patches, None), summaries[2]]
    assert merge_summaries(unknown).remote_partition_sum(0) is None
    assert merge_summaries(unknown).remote_partition_sum(1) == pytest.approx(
        summaries[0].partition_sum + summaries[2].partition_sum
    )


def test_moments_are_means_and_variances_of_all_patches():
    summaries = make_summaries(3, 4, 2)
    moments = merge_summaries(summaries).moments()
    assert moments.shape == (12, 3)
    for s in range(3):
        for p in range(4):
            expected = [*summaries[s].patches[p, :2], (summaries[s].patches[p, 2:].astype(np.float64) ** 2).sum()]
            np.testing.assert_allclose(moments[s * 4 + p], expected, rtol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_charges_keep_the_number_mean_and_variance_of_rows(dim):
    summaries = make_summaries(3, 4, dim)
    counts = np.array([[5, 1, 0, 2], [1, 0, 3, 1], [9, 9, 9, 9]], np.float32)
    charges = RemoteCharges.of_others(1, counts, dim)
    points, weights = charges.points(merge_summaries(summaries)), charges.weights
    assert weights.sum() == pytest.approx(counts[[0, 2]].sum())
    rows = counts[[0, 2]].reshape(-1)
    patches = np.concatenate([summaries[0].patches, summaries[2].patches]).astype(np.float64)
    expected = (rows[:, None] * patches[:, :dim]).sum(axis=0) / rows.sum()
    mean = (weights[:, None] * points).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    # A single row has no variance, whatever its summary contains.
    within = np.where(rows[:, None] > 1, patches[:, dim:], 0) ** 2
    variance = (rows[:, None] * (within + (patches[:, :dim] - expected) ** 2)).sum(axis=0) / rows.sum()
    actual = (weights[:, None] * (points - mean) ** 2).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(actual, variance, rtol=1e-4)


def test_a_single_shard_has_no_remote_charges():
    charges = RemoteCharges.of_others(0, np.ones((1, 4), np.float32), 2)
    assert charges.points(merge_summaries(make_summaries(1, 4, 2))).shape == (0, 2)
    assert charges.weights.shape == (0,)


def test_bytes_are_those_of_the_arrays_and_scalars():
    summaries = make_summaries(3, 4, 2)
    assert summaries[0].nbytes == 4 * 4 * 4 + 16
    assert merge_summaries(summaries).nbytes == 3 * 4 * 4 * 4 + 3 * 8
