"""Means and deviations of patches against the CPU's and NumPy's, whatever the order of the threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.backends.cpu.patch_moments import patch_moments
from tests.helpers.host_runtime import HostRuntime


def on_device(runtime, points, patch_of_row, counts):
    order = np.argsort(patch_of_row, kind="stable").astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    out = np.full((len(counts), 2 * points.shape[1]), np.nan, np.float32)
    n_patches = len(counts)
    runtime.launch("patch_moments", points.shape[1], 8 * n_patches, points, order, offsets, np.int64(n_patches), out)
    return out


@pytest.mark.parametrize("dim", [2, 3])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 2000),
    n_patches=st.integers(1, 600),
    shuffle=st.integers(0, 99),
    away=st.sampled_from([0.0, 1e4]),
)
def test_as_the_cpu(dim, seed, rows, n_patches, shuffle, away):
    random = np.random.default_rng(seed)
    points = (random.normal(size=(rows, dim)) + away).astype(np.float32)
    patch_of_row = random.integers(0, n_patches, rows).astype(np.int32)  # some patches stay empty
    counts = np.bincount(patch_of_row, minlength=n_patches).astype(np.int64)
    out = on_device(HostRuntime(seed=shuffle), points, patch_of_row, counts)
    expected = patch_moments(points, patch_of_row, counts)
    alone = counts <= 1
    np.testing.assert_array_equal(out[alone], expected[alone])
    # Sums in another order: the variance is off by rounding of the squares, in double precision.
    np.testing.assert_allclose(out[:, :dim], expected[:, :dim], rtol=2e-7, atol=1e-10)
    digits = 1e-14 * (1 + away**2)
    np.testing.assert_allclose(out[:, dim:] ** 2, expected[:, dim:] ** 2, rtol=4e-7, atol=10 * digits)
    np.testing.assert_array_equal(out, on_device(HostRuntime(seed=shuffle + 1), points, patch_of_row, counts))


@pytest.mark.parametrize("dim", [2, 3])
def test_against_numpy(dim):
    random = np.random.default_rng(1)
    points = (random.normal(size=(900, dim)) * 5).astype(np.float32)
    patch_of_row = np.repeat(np.arange(3), 300).astype(np.int32)
    random.shuffle(patch_of_row)
    out = on_device(HostRuntime(), points, patch_of_row, np.array([300, 300, 300, 0]))
    for patch in range(3):
        rows = points[patch_of_row == patch].astype(np.float64)
        np.testing.assert_allclose(out[patch, :dim], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(out[patch, dim:], rows.std(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(out[3], 0)


def test_a_patch_of_one_row_has_no_spread():
    points = np.array([[1234.567, -0.1]], np.float32)
    out = on_device(HostRuntime(), points, np.zeros(1, np.int32), np.ones(1, np.int64))
    np.testing.assert_array_equal(out, [[*points[0], 0, 0]])
