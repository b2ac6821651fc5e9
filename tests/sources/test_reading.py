"""What holds for every kind of source."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from nomad_dask.sources.base import Source
from nomad_dask.sources.npy import NpySource, copy_to_npy
from tests.helpers.source_kinds import FILES, LAZY


def test_reads_what_numpy_slices(make_source, x):
    source = make_source(x)
    assert (source.n_rows, source.n_dims) == x.shape
    ranges = [(0, 41), (0, 1), (40, 41), (0, 7), (7, 14), (5, 23), (23, 30), (3, 4), (21, 41), (6, 8), (9, 9)]
    for start, stop in ranges:
        rows = source.read(start, stop)
        np.testing.assert_array_equal(rows, x[start:stop])
        assert rows.dtype == source.dtype
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous


def test_blocks_end_at_the_breaks_and_give_all_rows(make_source, x):
    source = make_source(x)
    for max_rows in (1, 6, 7, 10, 100):
        parts = list(source.iterate(max_rows))
        assert all(len(rows) <= max_rows for _, rows in parts)
        assert [start for start, _ in parts] == list(np.cumsum([0, *(len(r) for _, r in parts)])[:-1])
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), x)


def test_the_users_data_cannot_be_written_through_a_block(make_in_memory, x):
    before = x.copy()
    rows = make_in_memory(x).read(0, 41)
    if rows.flags.writeable:
        rows[:] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i2", "i8"])
def test_element_types_stay_as_stored(make_source, x, dtype, request):
    x = (x * 30).astype(dtype) if dtype != "u1" else np.abs(x * 30).astype(dtype)
    source = make_source(x)
    if "lists_of_lists" in request.node.name:  # numbers of Python have no type of their own
        assert source.dtype in (np.float64, np.int64)
    elif "polars" not in request.node.name or dtype != "f2":
        assert source.dtype == dtype
    np.testing.assert_array_equal(source.read(5, 20), x[5:20])


def test_fingerprint_is_that_of_the_data(make_source, x, request):
    one, same = make_source(x).fingerprint(), make_source(x.copy()).fingerprint()
    other = make_source(x + 1).fingerprint()
    if "dask_lists" not in request.node.name:  # Dask tells files by their times, and this one is written anew
        assert one == same
    assert one != other


def test_fingerprints_of_arrays_ignore_their_layout(x):
    plain = open_source(x).fingerprint()
    assert open_source(np.asfortranarray(x)).fingerprint() == plain
    assert open_source(x.astype(">f4")).fingerprint() == plain
    assert open_source(np.repeat(x, 2, axis=0)[::2]).fingerprint() == plain
    assert open_source(x.astype("f8")).fingerprint() != plain


def test_threads_do_not_disturb_each_other(make_source, x):
    source, wrong = make_source(x), []

    def read_all(step: int) -> None:
        for start in range(0, 41 - step, step):
            if not np.array_equal(source.read(start, start + step), x[start : start + step]):
                wrong.append((step, start))

    threads = [threading.Thread(target=read_all, args=(step,)) for step in (1, 2, 3, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_as_dask_array(make_source, x):
    source = make_source(x)
    lazy = source.as_dask_array(max_rows=10)
    assert lazy.shape == x.shape
    assert max(lazy.chunks[0]) <= 10
    np.testing.assert_array_equal(lazy.compute(scheduler="threads", num_workers=2), x)
    assert lazy.name == source.as_dask_array(max_rows=10).name  # the same data has the same name


def test_pickled_sources_read_on(make_shareable, x):
    source = make_shareable(x)
    assert source.shareable
    source.read(0, 10)
    pickled = pickle.dumps(source)
    again = pickle.loads(pickled)
    assert again is not source
    np.testing.assert_array_equal(again.read(5, 23), x[5:23])
    assert again.fingerprint() == source.fingerprint()


def run_python(code, *arguments):
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, cwd="/")


def test_another_process_reads(x, tmp_path):
    """Every shareable kind is read by a fresh interpreter that has nothing but the pickle."""
    sources = []
    for kind in FILES + LAZY:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        sources.append(open_source(kind(folder, x)))
    (tmp_path / "sources").write_bytes(pickle.dumps(sources))
    code = (
        "import pickle, sys, numpy as np; sources = pickle.load(open(sys.argv[1], 'rb'));"
        "np.save(sys.argv[2], [s.read(5, 23) for s in sources])"
    )
    run_python(code, tmp_path / "sources", tmp_path / "rows.npy")
    found = np.load(tmp_path / "rows.npy")
    assert len(found) == len(FILES + LAZY)
    for rows in found:
        np.testing.assert_array_equal(rows, x[5:23])


def test_memory_is_found_again_in_its_own_process_only(make_in_memory, x):
    source = make_in_memory(x)
    assert not source.shareable
    pickled = pickle.dumps(source)
    assert len(pickled) < 500
    assert pickle.loads(pickled) is source
    del source
    gc.collect()
    absent = pickle.loads(pickled)  # a worker must be able to unpickle it, or it loses its connection
    assert (absent.n_rows, absent.n_dims, absent.shareable) == (41, 5, False)
    for use in (lambda: absent.read(0, 1), absent.fingerprint):
        with pytest.raises(InputError, match="in the memory of another process, or is gone"):
            use()


def test_memory_of_another_process_is_not_read(x, tmp_path):
    source = open_source(x)
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    code = """
import pickle, sys
from nomad_dask.errors import InputError
source = pickle.load(open(sys.argv[1], "rb"))
try:
    source.read(0, 1)
except InputError as error:
    assert "the ndarray is in the memory of another process" in str(error)
    open(sys.argv[1], "wb").write(pickle.dumps(source))
"""
    run_python(code, tmp_path / "source")
    assert pickle.loads((tmp_path / "source").read_bytes()) is source  # it comes home as what it was


def test_staged(make_source, x, tmp_path):
    source = make_source(x)
    copy = copy_to_npy(source, tmp_path / "staged" / "x.npy", max_rows=10)
    assert isinstance(copy, NpySource)
    assert copy.shareable
    assert copy.dtype == source.dtype
    assert copy.fingerprint() == source.fingerprint()
    assert pickle.loads(pickle.dumps(copy)).fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(np.load(tmp_path / "staged" / "x.npy"), x)


def test_staging_that_fails_leaves_nothing(x, tmp_path):
    import pyarrow as pa

    ragged = pa.table({"v": [[1.0, 2.0]] * 20 + [[1.0]]})
    with pytest.raises(InputError, match="row 20"):
        copy_to_npy(open_source(ragged), tmp_path / "x.npy", max_rows=8)
    assert list(tmp_path.iterdir()) == []


class Breaks(Source):
    """A source of row numbers with given breaks."""

    def __init__(self, n_rows: int, edges: list[int]) -> None:
        self.n_rows, self.n_dims, self.dtype, self.name = n_rows, 1, np.dtype("i8"), "breaks"
        self._edges = edges

    def read(self, start, stop):
        return np.arange(start, stop)[:, None]

    def fingerprint(self):
        return "breaks"

    def chunk_boundaries(self):
        return self._edges


@given(
    n_rows=st.integers(1, 400),
    edges=st.lists(st.integers(-5, 450), max_size=30).map(sorted),
    max_rows=st.integers(1, 500),
)
def test_blocks_cover_every_row_once(n_rows, edges, max_rows):
    source = Breaks(n_rows, edges)
    blocks = source.blocks(max_rows)
    assert np.array_equal(np.concatenate([np.arange(a, b) for a, b in blocks]), np.arange(n_rows))
    assert all(0 < b - a <= max_rows for a, b in blocks)
    # A break is passed over only inside a block that ends at a break (or the end), never by one cut short.
    stops = {b for _, b in blocks}
    for a, b in blocks:
        inside = [e for e in edges if a < e < b]
        assert not inside or b in {*edges, n_rows}
    assert n_rows in stops


@given(
    n_rows=st.integers(1, 400),
    edges=st.lists(st.integers(-5, 450), max_size=30).map(sorted),
    max_rows=st.integers(1, 500),
)
def test_stretches_are_the_blocks_between_breaks(n_rows, edges, max_rows):
    source = Breaks(n_rows, edges)
    stretches = source.read_groups(max_rows)
    assert [block for stretch in stretches for block in stretch] == source.blocks(max_rows)
    for stretch in stretches:
        assert all(start not in edges for start, _ in stretch[1:])
        # Only what lies between two breaks, or within one block, is read by one task.
        start, stop = stretch[0][0], stretch[-1][1]
        assert len(stretch) == 1 or not any(start < e < stop for e in edges)
    if edges:
        assert all(stretch[0][0] in {0, *edges} for stretch in stretches)
    else:
        assert all(len(stretch) == 1 for stretch in stretches)


def test_parts_read_their_rows_by_the_same_numbers(make_source, x):
    source = make_source(x)
    for stretch in source.read_groups(10):
        start, stop = stretch[0][0], stretch[-1][1]
        part = source.slice_rows(start, stop)
        if source.shareable:
            part = pickle.loads(pickle.dumps(part))
        assert (part.n_rows, part.n_dims, part.dtype, part.name) == (41, 5, source.dtype, source.name)
        for a, b in stretch:
            np.testing.assert_array_equal(part.read(a, b), x[a:b])
    assert source.slice_rows(0, 0).dtype == source.dtype


def test_other_processes_make_their_own_fingerprint(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    source = open_source(tmp_path / "x.npy")
    pickled = (source.fingerprint(), pickle.dumps(source))[1]
    np.save(tmp_path / "x.npy", x + 1)
    assert pickle.loads(pickled).fingerprint() != source.fingerprint()
