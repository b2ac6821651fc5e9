"""The range of a block of rows, on every backend, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.value_range import ValueRange

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(50, 7))


def on_device(backend, rows):
    runtime = getattr(backend, "runtime", None)
    return rows if runtime is None else runtime.upload(rows)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u2", "i4", "i8", "u8"])
def test_largest_absolute_value(backend, dtype):
    rows = (10 * np.abs(ROWS) if dtype[0] == "u" else 10 * ROWS).astype(dtype)
    for values in (rows, -rows[:, :1] if dtype[0] != "u" else rows[:, :1]):
        found = backend.value_range(on_device(backend, np.ascontiguousarray(values)), "euclidean")
        assert found == ValueRange(float(np.abs(values.astype(np.float64)).max()), False)


def test_the_lowest_integer(backend):
    rows = np.array([[np.iinfo(np.int64).min, 0]])
    assert backend.value_range(on_device(backend, rows), "euclidean").max_abs == 2.0**63


@pytest.mark.parametrize(
    ("row", "expected"),
    [(0.0, False), (1e-10, False), (1e10, False), (1e-25, True), (1e-40, True), (1e19, True), (3e38, True)],
)
def test_directions_are_lost_beyond_the_range_of_squares(backend, row, expected):
    rows = ROWS.astype(np.float32)
    rows[9] = row
    assert backend.value_range(on_device(backend, rows), "cosine").directions_lost is expected
    assert backend.value_range(on_device(backend, rows), "euclidean").directions_lost is False


def test_ranges_add_up():
    assert ValueRange(1.0, True) | (2.0, False) == ValueRange(2.0, True)
