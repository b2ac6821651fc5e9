"""Rows on disk, read by ranges from several files."""

from __future__ import annotations

from io import FileIO

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nomad_dask.backends import row_reader
from nomad_dask.backends.row_reader import RowFile, ShardVectors, normalized, to_float32

X = (100 * np.random.default_rng(0).normal(size=(50, 6))).astype(np.float32)
X[7] = 0


def in_chunks(work, n_items, chunk):
    for start in reversed(range(0, n_items, 7)):
        work(start, min(start + 7, n_items))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(parts=[(0, 0, 0)], ends=(0, 0), metric="euclidean", dtype="f4", fits=False, held_by="one")
@example(parts=[(1, 9, 9), (0, 3, 5)], ends=(0, 9), metric="cosine", dtype="f2", fits=True, held_by="chunks")
@given(
    parts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=5),
    ends=st.tuples(st.integers(0, 250), st.integers(0, 250)),
    metric=st.sampled_from(["euclidean", "cosine"]),
    dtype=st.sampled_from(["f2", "f4", "i1", "u1"]),
    fits=st.booleans(),
    held_by=st.sampled_from(["nobody", "one", "chunks"]),
)
def test_any_range_of_any_parts(tmp_path, parts, ends, metric, dtype, fits, held_by):
    x = np.abs(X).astype(dtype) if dtype == "u1" else X.astype(dtype)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.roll(x, i, axis=0))
    stretches = [(tmp_path / f"{i}.npy", *sorted(ab)) for i, *ab in parts]
    vectors = ShardVectors(stretches, metric, 1 << 20 if fits else 0)
    assert not vectors.resident
    if held_by == "one":
        vectors.load()
    elif held_by == "chunks":
        vectors.load(in_chunks)
    whole = np.concatenate([np.roll(x, i, axis=0)[min(a, b) : max(a, b)] for i, a, b in parts]).astype(np.float64)
    if metric == "cosine":
        whole /= np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-30)
    assert (vectors.n_rows, vectors.n_dims) == whole.shape
    assert vectors.resident == (held_by != "nobody" and (fits or not len(whole)))
    start, stop = sorted(min(end, len(whole)) for end in ends)
    found = vectors.read(start, stop)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, whole[start:stop], rtol=1e-5, atol=1e-6)
    picked = np.arange(start, stop, 3)
    if len(picked):
        np.testing.assert_array_equal(vectors.gather(picked), found[::3])
    vectors.unload()
    assert not vectors.resident
    np.testing.assert_array_equal(vectors.read(start, stop), found)


def test_rows_far_apart_are_read_one_by_one(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    read: list[tuple[int, int]] = []
    original = RowFile._read_into

    def record(self: RowFile, file: FileIO, start: int, out: np.ndarray) -> None:
        read.append((start, start + len(out)))
        original(self, file, start, out)

    monkeypatch.setattr(RowFile, "_read_into", record)
    monkeypatch.setattr(row_reader, "_MAX_GAP_BYTES", 5 * 6 * 4)
    vectors = ShardVectors([(tmp_path / "x.npy", 10, 50)])
    np.testing.assert_array_equal(vectors.gather(np.array([0, 5, 6, 12, 30, 39])), X[[10, 15, 16, 22, 40, 49]])
    assert read == [(10, 17), (22, 23), (40, 41), (49, 50)]


def test_a_range_of_a_file_is_read_alone(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(RowFile.open(tmp_path / "x.npy").read(3, 9), X[3:9])
    np.save(tmp_path / "flat.npy", np.arange(20))
    np.testing.assert_array_equal(RowFile.open(tmp_path / "flat.npy").read(5, 7), [5, 6])
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        RowFile.open(tmp_path / "objects.npy").read(0, 1)


def test_rows_of_unit_length():
    before = X.copy()
    unit = to_float32(X, "cosine")
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(np.linalg.norm(np.delete(unit, 7, axis=0), axis=1), 1, rtol=1e-6)
    assert (unit[7] == 0).all()
    assert to_float32(X, "euclidean") is X
    rows = X.copy()
    assert normalized(rows) is rows
