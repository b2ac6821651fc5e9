"""Sources made of other sources: their rows are those of NumPy's concatenation and deletion."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from nomad_dask.sources.combined import ConcatenatedSource, RemainingSource


def numbers(n: int, dtype: type = np.float32, first: int = 0) -> np.ndarray:
    return (first + np.arange(3 * n)).reshape(n, 3).astype(dtype)


@pytest.fixture
def files(tmp_path):
    """A ``.npy`` file of 40 rows, and a Parquet file of 30 in row groups of 7."""
    np.save(tmp_path / "a.npy", numbers(40))
    frame = pd.DataFrame({"v": list(numbers(30, first=1000))})
    frame.to_parquet(tmp_path / "b.parquet", row_group_size=7)
    return open_source(tmp_path / "a.npy"), open_source(tmp_path / "b.parquet")


@pytest.mark.parametrize("max_rows", [1, 7, 16, 100])
def test_rows_follow_each_other(files, max_rows):
    both = ConcatenatedSource(files)
    expected = np.concatenate([numbers(40), numbers(30, first=1000)])
    assert (both.n_rows, both.n_dims, both.dtype) == (70, 3, np.float32)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in both.iterate(max_rows)]), expected)
    for start, stop in both.blocks(max_rows):
        part = pickle.loads(pickle.dumps(both.slice_rows(start, stop)))
        np.testing.assert_array_equal(part.read(start, stop), expected[start:stop])


@given(st.integers(0, 19), st.integers(0, 19))
def test_any_range_of_three_parts(a, b):
    parts = [numbers(n, first=100 * n) for n in (5, 1, 13)]
    start, stop = min(a, b), max(a, b)
    both = ConcatenatedSource([open_source(part) for part in parts])
    np.testing.assert_array_equal(both.read(start, stop), np.concatenate(parts)[start:stop])


@pytest.mark.parametrize(
    ("dtypes", "together"),
    [
        ((np.float16, np.float32), np.float32),
        ((np.float16, np.float16), np.float16),
        ((np.int8, np.float32), np.float32),
        ((np.float32, np.float64), np.float64),
    ],
)
def test_no_value_is_rounded(dtypes, together):
    both = ConcatenatedSource([open_source(numbers(4, dtype)) for dtype in dtypes])
    assert both.dtype == together
    assert both.read(0, 8).dtype == together


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match=r"has 2 dimensions, .* has 3"):
        ConcatenatedSource([open_source(numbers(4)), open_source(numbers(4)[:, :2])])


def test_the_fingerprint_tells_order_and_content(files):
    a, b = files
    found = {ConcatenatedSource(parts).fingerprint() for parts in ([a, b], [b, a], [a], [a, a])}
    assert len(found) == 4


def test_checksums_reach_the_part_that_computed_them():
    """A Dask array that changes between two passes is noticed, wherever it stands."""
    values = {"value": numbers(10)}
    lazy = da.from_delayed(delayed(lambda: values["value"], pure=False)(), (10, 3), np.float32)
    both = ConcatenatedSource([open_source(numbers(4)), open_source(lazy)])
    both.read(0, 14)
    found = both.checksums(0, 14)
    np.testing.assert_array_equal(both.with_checksums(found).read(4, 14), numbers(10))
    values["value"] = numbers(10, first=1)
    with pytest.raises(InputError, match="does not produce the same rows each time"):
        both.with_checksums(found).read(4, 14)


@given(st.sets(st.integers(0, 11)), st.integers(0, 12), st.integers(0, 12))
def test_the_rows_that_remain(removed, a, b):
    removed = np.array(sorted(removed), np.int64)
    expected = np.delete(numbers(12), removed, axis=0)
    source = RemainingSource(open_source(numbers(12)), removed)
    start, stop = sorted((min(a, len(expected)), min(b, len(expected))))
    np.testing.assert_array_equal(source.read(start, stop), expected[start:stop])
    np.testing.assert_array_equal(source.row_numbers(start, stop), np.delete(np.arange(12), removed)[start:stop])
    assert source.n_rows == len(expected)
