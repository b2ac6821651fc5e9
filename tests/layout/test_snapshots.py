"""The rows of a snapshot: at most as many as allowed, and from every part of the map in proportion."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.layout.snapshots import stratified_slices


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(1, 3000))
def test_every_range_of_rows_is_shown_in_proportion(sizes, max_points):
    slices = stratified_slices(sizes, max_points)
    shown = np.concatenate([np.isin(np.arange(n), np.arange(n)[part]) for n, part in zip(sizes, slices, strict=True)])
    n = sum(sizes)
    assert shown.sum() <= max_points
    assert shown.all() if n <= max_points else shown.sum() > max_points / 2 - 1
    step = max(1, -(-n // max_points))
    counts = np.concatenate([[0], np.cumsum(shown)])
    for a in range(0, n, 7):
        for b in (a + step, a + 10 * step):
            if b <= n:
                assert counts[b] - counts[a] == (b - a) // step
