from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from nomad_dask.sources.validation import check_finite
from tests.helpers.source_kinds import FILES, IN_MEMORY, LAZY


@given(
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 8)),
    bad=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 7)), max_size=3),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    start=st.integers(0, 10**12),
)
def test_the_first_bad_row_is_named(dtype, shape, bad, value, start):
    rows = np.ones(shape, dtype)
    places = sorted((i % shape[0], j % shape[1]) for i, j in bad)
    for place in places:
        rows[place] = value
    if not places:
        check_finite(rows, start, "x")
        return
    what = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(InputError, match=rf"contains {what}: x, row {start + places[0][0]}, column {places[0][1]}\."):
        check_finite(rows, start, "x")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_sums_that_overflow_are_no_false_alarm(dtype):
    rows = np.full((100, 3), np.finfo(dtype).max, dtype)
    check_finite(rows, 0, "x")
    check_finite(-rows, 0, "x")
    rows[40, 1] = np.inf
    with pytest.raises(InputError, match="row 40"):
        check_finite(rows, 0, "x")
    both = np.concatenate([rows[:3], -rows[:3]])
    check_finite(both, 0, "x")


@pytest.mark.parametrize("dtype", ["u1", "i8"])
def test_integers_are_finite(dtype):
    check_finite(np.full((3, 3), np.iinfo(dtype).max, dtype), 0, "x")


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "M8[s]", "m8[s]", "V2", np.longdouble])
def test_other_types_are_refused_by_name(dtype, tmp_path):
    array = np.zeros((3, 2), dtype)
    with pytest.raises(InputError, match=r"dtype .*float16, float32, float64, integers and booleans are accepted"):
        open_source(array)
    if dtype != "O":
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(InputError, match=r"dtype .*float16, float32, float64, integers and booleans are accepted"):
            open_source(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "Expected 2D array, got 0D array instead"),
        ((7,), "Expected 2D array, got 1D array instead.*Reshape your data"),
        ((2, 3, 4), "Found array with dim 3"),
        ((0, 4), r"0 sample\(s\) \(shape=\(0, 4\)\) while a minimum of 1 is required"),
        ((4, 0), r"0 feature\(s\) \(shape=\(4, 0\)\) while a minimum of 1 is required"),
    ],
)
def test_shapes_are_refused_in_the_words_of_scikit_learn(shape, message, tmp_path):
    import dask.array as da

    np.save(tmp_path / "x.npy", np.zeros(shape))
    for x in (np.zeros(shape), tmp_path / "x.npy", da.zeros(shape)):
        with pytest.raises(InputError, match=message):
            open_source(x)


def test_one_column_and_one_row_are_enough():
    assert open_source(np.zeros((5, 1))).n_dims == 1
    assert open_source(np.zeros((1, 5))).n_rows == 1


@pytest.mark.parametrize("kind", FILES + LAZY + IN_MEMORY, ids=lambda f: f.__name__)
def test_booleans_are_zeros_and_ones(kind, tmp_path, x):
    source = open_source(kind(tmp_path, x > 0))
    assert source.dtype == np.uint8
    for start, stop in [(0, 41), (5, 23), (9, 9)]:
        rows = source.read(start, stop)
        assert rows.dtype == np.uint8
        np.testing.assert_array_equal(rows, (x > 0)[start:stop].astype("u1"))
