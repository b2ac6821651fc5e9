"""Extrapolation of the time of stages, against lines in closed form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.pipeline.time_estimate import extrapolate_seconds


@given(fixed=st.floats(0, 10), rate=st.floats(0.01, 10), works=st.lists(st.integers(1, 1000), min_size=3, max_size=3))
def test_what_any_run_takes_is_not_multiplied(fixed, rate, works):
    small, large, wanted = sorted(works)
    if small == large:
        return
    measured = [(work, fixed + rate * work) for work in (small, large)]
    assert extrapolate_seconds(*measured, wanted) == pytest.approx(fixed + rate * wanted, rel=1e-6)


@pytest.mark.parametrize("small", [(1.0, 3.0), (1.0, 2.0), (4.0, 1.0)])
def test_measurements_that_do_not_ascend_are_extrapolated_in_proportion(small):
    assert extrapolate_seconds(small, (4.0, 2.0), 40.0) == 20.0
    assert extrapolate_seconds(small, (4.0, 2.0), 1.0) == 2.0
