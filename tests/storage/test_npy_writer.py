"""A file written piece by piece is the one that NumPy would write of all pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.storage.npy_writer import appended_npy


@given(
    sizes=st.lists(st.integers(0, 40), max_size=5),
    row_shape=st.sampled_from([(), (3,), (0,), (2, 2)]),
    dtype=st.sampled_from(["<i8", "<f4", "<u4"]),
)
def test_pieces_are_read_back_whole(tmp_path_factory, sizes, row_shape, dtype):
    path = tmp_path_factory.mktemp("pieces") / "x.npy"
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 1000, (size, *row_shape)).astype(dtype) for size in sizes]
    with appended_npy(path, np.dtype(dtype), row_shape) as append:
        for piece in pieces:
            append(piece)
    read = np.load(path)
    np.testing.assert_array_equal(read, np.concatenate([*pieces, np.empty((0, *row_shape), dtype)]))
    assert read.dtype == dtype


def test_nothing_remains_of_a_file_that_fails(tmp_path):
    def fail() -> None:
        with appended_npy(tmp_path / "x.npy", np.dtype("<i8")) as append:
            append(np.arange(3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
