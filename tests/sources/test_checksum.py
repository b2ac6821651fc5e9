"""Computations that do not give the same rows each time."""

from __future__ import annotations

import copy

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.metrics import score
from nomad_dask.sources import open_source
from nomad_dask.sources.checksum import rows_checksum
from tests.helpers.device_arrays import to_card

DTYPES = ["f2", "f4", "f8", "u1", "i2", "i8"]


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_the_checksum_is_that_of_the_bytes(dtype, shape, seed, data):
    rows = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    found = rows_checksum(rows)
    assert 0 <= found < 2**64
    assert rows_checksum(rows.copy()) == found
    assert rows_checksum(to_card(rows.copy())) == found, "a device computes the same"
    i, j = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    other = rows.copy()
    other.view("u1").reshape(shape[0], shape[1], -1)[i, j, data.draw(st.integers(0, rows.itemsize - 1))] ^= 1
    assert rows_checksum(other) != found
    swapped = rows[::-1].copy()
    assert (rows_checksum(swapped) == found) == np.array_equal(swapped, rows)
    turned = np.ascontiguousarray(rows[:, ::-1])
    assert (rows_checksum(turned) == found) == np.array_equal(turned, rows)


def test_no_rows():
    assert rows_checksum(np.empty((0, 3))) == rows_checksum(np.empty((0, 3)))


class Changes:
    """Blocks whose last number is another one from the second time on."""

    def __init__(self, x, from_call=2):
        self.x, self.calls, self.from_call = x, {}, from_call

    def __call__(self, i):
        self.calls[i] = self.calls.get(i, 0) + 1
        rows = self.x[7 * i : 7 * i + 7].copy()
        rows[-1, -1] += self.calls[i] >= self.from_call
        return rows

    def __dask_tokenize__(self):
        return "changes"


def changing_array(x, **more):
    block = dask.delayed(Changes(x, **more), pure=True)
    return da.concatenate([da.from_delayed(block(i), (min(7, 41 - 7 * i), 5), "f4") for i in range(6)])


def changing_frame(x, **more):
    changes = Changes(x, **more)
    part = pd.DataFrame(x[:0]).add_prefix("x")
    return dd.from_map(lambda i: pd.DataFrame(changes(i)).add_prefix("x"), range(6), meta=part)


@pytest.mark.parametrize(("make", "from_call"), [(changing_array, 2), (changing_frame, 4)])
def test_rows_that_differ_are_refused(x, make, from_call):
    """When a frame is opened, its first partition is computed twice, to count rows and to look at the vectors."""
    source = open_source(make(x, from_call=from_call))
    for start, rows in source.iterate(7):
        np.testing.assert_array_equal(rows, x[start : start + 7])
    with pytest.raises(InputError, match=r"partition 0 of the Dask .* \(rows 0 to 6\) has other values than when it"):
        source.read(0, 7)


def test_checksums_go_from_one_process_to_another(x):
    first = open_source(changing_array(x, from_call=3))
    found = {}
    for blocks in first.read_groups(10):
        part = cloudpickle.loads(cloudpickle.dumps(first.slice_rows(blocks[0][0], blocks[-1][1])))
        for start, stop in blocks:
            part.read(start, stop)
        found |= part.checksums(blocks[0][0], blocks[-1][1])
    assert list(found) == list(range(6))
    again = open_source(da.from_array(x, chunks=(7, 2))).with_checksums(found)
    np.testing.assert_array_equal(again.slice_rows(10, 30).read(10, 30), x[10:30])
    other = x.copy()
    other[38] = 0
    part = open_source(da.from_array(other, chunks=(7, 2))).with_checksums(found)
    np.testing.assert_array_equal(part.slice_rows(10, 30).read(10, 30), x[10:30])
    with pytest.raises(InputError, match=r"rows 35 to 40"):
        cloudpickle.loads(cloudpickle.dumps(part.slice_rows(35, 41))).read(35, 41)


def test_the_same_rows_in_another_layout_are_the_same(x):
    found = {}
    for array in (x, np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=0)[::2]):
        source = open_source(da.from_array(array, chunks=(41, 5))).with_checksums(found)
        source.read(0, 41)
        found = copy.copy(source.checksums(0, 41))


def test_scores_read_twice(x):
    with pytest.raises(InputError, match="does not produce the same rows each time"):
        score(changing_array(x), x[:, :2], ks=(5,), n_queries=41)
