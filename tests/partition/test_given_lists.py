"""Neighbor lists that are given: checked and sorted as a plain loop over rows does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.data import ListLengths
from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.errors import InputError
from nomad_dask.partition.given_lists import Lists, clean_lists, list_lengths
from nomad_dask.pipeline.given_neighbors import padded

N_ROWS = 30


@st.composite
def rows_of_lists(draw):
    """Draw the lists of rows as pairs of row number and distance, each row number once, and where they begin."""
    first = draw(st.integers(0, N_ROWS - 6))
    pair = st.tuples(st.integers(0, N_ROWS - 1), st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 7.0]))
    rows = st.lists(st.lists(pair, min_size=3, max_size=14, unique_by=lambda p: p[0]), min_size=1, max_size=6)
    return first, draw(rows)


@given(rows_of_lists(), st.integers(1, 4), st.integers(0, 2))
def test_lists_are_sorted_without_the_rows_themselves(drawn, k, n_tail):
    first, rows = drawn
    lengths = ListLengths(k, n_tail)
    ends = np.cumsum([0, *map(len, rows)])
    entries = [entry for row in rows for entry in row]
    lists = padded(ends, np.array([j for j, _ in entries]), np.array([d for _, d in entries]))
    expected = [sorted((p for p in row if p[0] != i), key=lambda p: p[1]) for i, row in enumerate(rows, first)]
    if min(map(len, expected)) < k:
        short = int(np.argmin([len(row) for row in expected]))
        with pytest.raises(InputError, match=f"given: row {first + short} has {len(expected[short])} neighbors"):
            clean_lists(lists, first, N_ROWS, lengths, "given")
        return
    cleaned = clean_lists(lists, first, N_ROWS, lengths, "given")
    assert cleaned.ids.dtype == np.uint32
    assert cleaned.ids.shape == cleaned.distances.shape == (len(rows), lengths.n_ranks)
    for ids, distances, row in zip(cleaned.ids, cleaned.distances, expected, strict=True):
        kept = row[: lengths.n_ranks]
        fill = lengths.n_ranks - len(kept)
        assert ids.tolist() == [j for j, _ in kept] + [NO_ROW] * fill
        assert distances.tolist() == [d for _, d in kept] + [np.inf] * fill
    again = clean_lists(Lists(np.where(cleaned.ids == NO_ROW, -1, cleaned.ids.astype(np.int64)), cleaned.distances),
                        first, N_ROWS, lengths, "given")  # fmt: skip
    np.testing.assert_array_equal(again.ids, cleaned.ids)


@pytest.mark.parametrize(
    ("ids", "distances", "message"),
    [
        ([1, 2, 30], [1.0, 2.0, 3.0], r"given: row 5 has the neighbor 30, and there are rows 0 to 29"),
        ([1, -2, 3], [1.0, 2.0, 3.0], r"given: row 5 has the neighbor -2, and there are"),
        ([1, -1, 3], [1.0, 2.0, 3.0], r"given: row 5 has the neighbor -1, and there are"),
        ([1, 2, 3], [1.0, -2.0, 3.0], r"given: row 5 has the distance -2\.0 to row 2: give finite distances"),
        ([1, 2, 3], [1.0, np.nan, 3.0], r"given: row 5 has the distance nan to row 2"),
        ([1, 2, 3], [1.0, np.inf, 3.0], r"given: row 5 has the distance inf to row 2"),
        ([1, 2, 1], [1.0, 2.0, 3.0], r"given: row 5 has the neighbor 1 twice: give every neighbor once"),
        ([5, 2, 5], [0.0, 2.0, 3.0], r"given: row 5 has the neighbor 5 twice"),
        ([5, 2, 3], [0.0, 2.0, 3.0], r"row 5 has 2 neighbors besides itself, and n_neighbors=3 .* or n_neighbors=2"),
        ([1, 2, -1], [1.0, 2.0, np.inf], r"row 5 has 2 neighbors besides itself"),
    ],
)
def test_what_is_no_list_of_neighbors_is_named(ids, distances, message):
    good = [6, 7, 8], [1.0, 2.0, 3.0]
    lists = Lists(np.array([good[0], ids]), np.array([good[1], distances]))
    with pytest.raises(InputError, match=message):
        clean_lists(lists, 4, N_ROWS, ListLengths(3), "given")
    assert clean_lists(Lists(lists.ids[:1], lists.distances[:1]), 4, N_ROWS, ListLengths(3), "given").ids.size == 3


@pytest.mark.parametrize(
    ("width", "n_rows", "expected"),
    [(15, 1000, (15, 0)), (18, 1000, (15, 0)), (19, 1000, (15, 1)), (59, 1000, (15, 11)), (200, 1000, (15, 11)),
     (None, 1000, (15, 11)), (None, 40, (15, 6)), (16, 10, (9, 0)), (14, 1000, (15, 0))],
)  # fmt: skip
def test_the_tail_is_as_long_as_lists_allow(width, n_rows, expected):
    lengths = list_lengths(15, 11, n_rows, width)
    assert (lengths.k, lengths.n_tail) == expected
