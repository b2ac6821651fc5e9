"""Which rows are shown while the layout goes on: few enough, the same in every look, and of every part its share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.layout.snapshots import stratified_slices


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(1, 3000))
def test_every_stretch_of_rows_is_shown_in_proportion(sizes, most):
    parts = stratified_slices(sizes, most)
    shown = np.concatenate([np.isin(np.arange(n), np.arange(n)[part]) for n, part in zip(sizes, parts, strict=True)])
    n = sum(sizes)
    assert shown.sum() <= most
    assert shown.all() if n <= most else shown.sum() > most / 2 - 1
    step = max(1, -(-n // most))
    counted = np.concatenate([[0], np.cumsum(shown)])
    for a in range(0, n, 7):
        for b in (a + step, a + 10 * step):
            if b <= n:
                assert counted[b] - counted[a] == (b - a) // step
