"""Oversized cells are split, and every row is kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.partition.split_cells import split_oversized_cells


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    max_rows=st.integers(1, 30),
    n_distinct=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_every_row_is_kept_and_no_part_is_above_the_limit(counts, max_rows, n_distinct, seed):
    rng = np.random.default_rng(seed)
    n = sum(counts)
    vectors = rng.normal(size=(n_distinct, 3)).astype(np.float32)[rng.integers(n_distinct, size=n)]
    order = rng.permutation(n)
    new_order, sizes = split_oversized_cells(vectors, order, np.array(counts), max_rows, "euclidean")
    assert sorted(new_order) == list(range(n))
    assert sizes.sum() == n
    assert not len(sizes) or (sizes.min() > 0 and sizes.max() <= max_rows)
    ends = set(np.cumsum(sizes).tolist())
    assert set(np.cumsum([c for c in counts if c]).tolist()) <= ends, "no part spans two cells"
    cells = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_array_equal(np.sort(new_order[np.argsort(cells, kind="stable")]), np.arange(n))
    small = [c for c in counts if 0 < c <= max_rows]
    assert len(sizes) >= len(small)


def test_parts_are_spatially_separate():
    rng = np.random.default_rng(0)
    along = rng.uniform(1, 100, size=800)
    vectors = np.stack([along, np.full(800, 30.0), rng.normal(size=800)], axis=1).astype(np.float32)
    order, sizes = split_oversized_cells(vectors, np.arange(800), np.array([800]), 100, "euclidean")
    assert (sizes <= 100).all()
    assert len(sizes) == 8
    parts = np.split(along[order], np.cumsum(sizes)[:-1])
    spans = sorted((part.min(), part.max()) for part in parts)
    overlaps = sum(before[1] > after[0] + 3 for before, after in pairwise(spans))
    assert overlaps == 0
