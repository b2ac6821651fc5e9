"""Vectors of any range become float32 without loss, compared with exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nomad_dask.sources.numpy import open_array
from nomad_dask.sources.rescaling import RescaledSource, Rescaling, choose_rescaling

rng = np.random.default_rng(0)
ORDINARY = rng.normal(size=(300, 5))
finite = st.floats(allow_nan=False, allow_infinity=False)


def chosen(rows: np.ndarray) -> Rescaling:
    return choose_rescaling(rows, float(np.abs(rows).max()))


@pytest.mark.parametrize(
    "rows",
    [
        ORDINARY,
        ORDINARY.astype(np.float16),
        ORDINARY * 1e10,
        ORDINARY * 1e-10,
        ORDINARY + 1000,
        np.exp(4 * ORDINARY),  # lengths over eight orders of magnitude
        np.vstack([ORDINARY, 5000 * ORDINARY[:1]]),
        np.ones((4, 3)),
        np.zeros((1, 1)),
    ],
)
def test_ordinary_and_constant_data_are_kept(rows):
    assert chosen(rows).is_identity


def test_the_range_of_int64():
    rows = np.array([[-(2**63)], [0], [2**63 - 1]])
    np.testing.assert_array_equal(chosen(rows).apply(rows), [[-1], [0], [1]])


def test_equal_rows_beyond_float32_are_equal_points():
    rows = np.full((4, 3), 1e300)
    np.testing.assert_array_equal(chosen(rows).apply(rows), np.zeros((4, 3)))


@given(st.integers(-1000, 1000), st.integers(-300, 300))
def test_every_scale_gives_the_same_vectors(first, second):
    scaled = []
    for exponent in (first, second):
        rows = np.ldexp(ORDINARY, exponent)
        rescaling = chosen(rows)
        scaled.append(rescaling.apply(rows) if not rescaling.is_identity else None)
    if scaled[0] is not None and scaled[1] is not None:
        np.testing.assert_array_equal(*scaled)


@pytest.mark.parametrize("scale", [1e18, 1e200, 1e300, 1e-25, 1e-200])
def test_distances_are_kept_up_to_a_power_of_two(scale):
    rows = ORDINARY * scale
    rescaling = chosen(rows)
    result = rescaling.apply(rows).astype(np.float64)
    ratios = np.linalg.norm(result[1:] - result[:-1], axis=1) / np.linalg.norm(ORDINARY[1:] - ORDINARY[:-1], axis=1)
    factor = Fraction(scale) * Fraction(2) ** rescaling.exponent
    np.testing.assert_allclose(ratios, float(factor), rtol=1e-5)
    assert 1 / 2**20 < np.abs(result).max() < 2**20


@pytest.mark.parametrize("offset", [1e9, 1.7e9, 2**40])
def test_a_common_offset_leaves_all_digits(offset):
    rows = ORDINARY + offset
    result = chosen(rows).apply(rows).astype(np.float64)
    exact = rows - rows[0]  # without rounding: numbers of like size
    np.testing.assert_allclose(result - result[0], exact, atol=1e-5)
    assert np.ptp((rows.astype(np.float32) - np.float32(offset)).astype(np.float64) - ORDINARY) > 1  # what is mended


@pytest.mark.parametrize("n_extreme", [1, 3])
@pytest.mark.parametrize("value", [1e8, 1e20, 1e150, 1.7e308])
def test_extreme_rows_keep_their_direction_and_leave_the_others(value, n_extreme):
    rows = np.vstack([ORDINARY, value * np.eye(5)[:n_extreme]])
    rescaling = chosen(rows)
    result = rescaling.apply(rows).astype(np.float64)
    assert rescaling.extreme(rows).tolist() == [False] * 300 + [True] * n_extreme
    assert rescaling.may_be_extreme(value)
    np.testing.assert_allclose(result[:300], ORDINARY - rescaling.offset, rtol=1e-6, atol=1e-6)
    lengths = np.linalg.norm(result[300:], axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    assert lengths[0] < 2 * np.linalg.norm(result[:300], axis=1).max()
    cosines = (result[300:] * np.eye(5)[:n_extreme]).sum(axis=1) / lengths
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert chosen(result).is_identity  # as the coarse map sees them


@given(arrays(np.float64, (6, 3), elements=finite))
def test_every_finite_number_becomes_a_finite_one(rows):
    with np.errstate(all="raise", under="ignore"):
        rescaling = chosen(rows) if rows.any() else Rescaling(np.zeros(3))
    result = rescaling.apply(rows)
    if not rescaling.is_identity:
        assert np.isfinite(result).all()
        assert np.isfinite(np.float32(4 * 3) * np.abs(result).max() ** 2)  # squared distances too
    units = Rescaling(np.zeros(3), unit_length=True).apply(rows).astype(np.float64)
    lengths = np.linalg.norm(units, axis=1)
    np.testing.assert_allclose(lengths[rows.any(axis=1)], 1, rtol=1e-6)
    assert not lengths[~rows.any(axis=1)].any()


def test_a_source_and_its_file_give_the_same_rows():
    rows = ORDINARY * 1e30
    rescaling = Rescaling.from_array(chosen(rows).as_array())
    source = RescaledSource(open_array(rows), rescaling)
    assert (source.n_rows, source.n_dims, source.dtype) == (300, 5, np.float32)
    np.testing.assert_array_equal(source.read(10, 20), rescaling.apply(rows)[10:20])
    np.testing.assert_array_equal(source.slice_rows(10, 20).read(12, 14), rescaling.apply(rows)[12:14])
    assert math.isinf(rescaling.max_norm)
