from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import open_source, parquet
from tests.helpers.source_kinds import list_table


def written(path, table, **more):
    pq.write_table(table, path, **more)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 50),
    batch_bytes=st.integers(1, 2000),
    cuts=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 160)), min_size=1, max_size=8),
    kind=st.sampled_from(["fixed", pa.list_, pa.large_list]),
)
def test_any_ranges_in_any_order(tmp_path, lengths, group, batch_bytes, cuts, kind):
    """Row groups, files without rows, small batches, going forth and back: always the rows asked for."""
    n_rows = sum(lengths)
    x = np.arange(n_rows * 3, dtype="f4").reshape(n_rows, 3)
    parts = np.split(x, np.cumsum(lengths)[:-1])
    ids = np.split(np.arange(n_rows), np.cumsum(lengths)[:-1])
    paths = [
        written(tmp_path / f"{i}.parquet", list_table(part, kind, id=n), row_group_size=group)
        for i, (part, n) in enumerate(zip(parts, ids, strict=True))
    ]
    with mock.patch.object(parquet, "_BATCH_BYTES", batch_bytes):
        source = open_source(paths, metadata_columns=["id"])
        for cut in cuts:
            start, stop = sorted(c % (n_rows + 1) for c in cut)
            np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
            if stop > start:
                kept = source.columns(["id"], start, stop)
                assert kept.column("id").to_pylist() == list(range(start, stop))


def test_reading_on_decodes_nothing_twice(tmp_path, x, monkeypatch):
    path = written(tmp_path / "x.parquet", list_table(x), row_group_size=20)
    source = open_source(path)
    started = []
    decode = parquet.ParquetSource._decode
    monkeypatch.setattr(
        parquet.ParquetSource,
        "_decode",
        lambda self, names, group, *more, **named: started.append(group) or decode(self, names, group, *more, **named),
    )
    fresh = open_source(path)
    started.clear()
    for start in range(0, 41, 3):
        fresh.read(start, min(start + 3, 41))
    assert started == [0]
    fresh.read(10, 12)
    fresh.read(30, 33)
    assert started == [0, 0, 1]  # back to the first row group, then straight to the second
    assert source.chunk_boundaries() == [0, 20, 40, 41]


def test_breaks_over_files(tmp_path, x):
    for i, part in enumerate(np.split(x, [10, 30])):
        written(tmp_path / f"{i}.parquet", list_table(part), row_group_size=8)
    assert open_source(tmp_path).chunk_boundaries() == [0, 8, 10, 18, 26, 30, 38, 41]


def test_column_is_found_by_itself_when_only_one_can_be_it(tmp_path, x):
    others = {"text": ["a"] * 41, "tags": [["a", "b"]] * 41, "n": range(41)}
    path = written(tmp_path / "x.parquet", list_table(x, **others))
    source = open_source(path)
    np.testing.assert_array_equal(source.read(0, 41), x)
    assert source.column_names() == ["text", "tags", "n"]


def test_two_candidates_are_named(tmp_path, x):
    path = written(tmp_path / "x.parquet", list_table(x, w=list_table(x[:, :2], "fixed")["v"]))
    with pytest.raises(InputError, match="2 columns of vectors \\('v', 'w'\\): choose one with column="):
        open_source(path)
    assert open_source(path, column="w").n_dims == 2
    assert open_source(path, column="v").column_names() == ["w"]
    assert open_source(path, metadata_columns=["w"]).n_dims == 5


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("embeding", "no column 'embeding'. Did you mean 'embedding'"),
        ("name", "column 'name' of .* is string: lists of float16"),
        ("tags", "column 'tags' of .* is list<.*string>: lists of float16"),
        ("n", "column 'n' of .* is int64: lists of float16"),
    ],
)
def test_wrong_columns(tmp_path, x, column, message):
    others = {"name": ["a"] * 41, "tags": [["a"]] * 41, "n": range(41)}
    table = list_table(x, **others).rename_columns(["embedding", "name", "tags", "n"])
    with pytest.raises(InputError, match=message):
        open_source(written(tmp_path / "x.parquet", table), column=column)


def test_no_column_can_be_it(tmp_path):
    path = written(tmp_path / "x.parquet", pa.table({"a": [1, 2], "b": ["x", "y"]}))
    with pytest.raises(InputError, match=r"not all its columns are numbers: 'b' \(string\)"):
        open_source(path)
    assert open_source(path, metadata_columns=["b"]).n_dims == 1
    with pytest.raises(InputError, match="no column left"):
        open_source(path, metadata_columns=["a", "b"])


def test_keep_names_are_checked(tmp_path, x):
    path = written(tmp_path / "x.parquet", list_table(x, section=["a"] * 41))
    with pytest.raises(InputError, match=r"no column 'sektion' to keep\. Did you mean 'section'"):
        open_source(path, metadata_columns=["sektion"])
    with pytest.raises(InputError, match="no column 'v' to keep"):
        open_source(path, column="v", metadata_columns=["v"])
    with pytest.raises(InputError, match="give a list of column names"):
        open_source(path, metadata_columns="section")


BAD = {
    "ragged": ([1.0, 2.0], r"row 33 has 2 values, row 0 has 3"),
    "empty": ([], r"row 33 has 0 values, row 0 has 3"),
    "null": (None, r"row 33 has a missing value"),
    "null inside": ([1.0, None, 2.0], r"row 33 has a missing value"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["parquet", "table", "pandas"])
def test_bad_rows_are_named(tmp_path, bad, kind):
    import pandas as pd

    row, message = BAD[bad]
    lists = [[float(i), 0.0, 1.0] for i in range(33)] + [row] + [[0.0, 0.0, 1.0]] * 3 + [[5.0]]
    table = pa.table({"v": pa.array(lists, pa.list_(pa.float32()))})
    frame = pd.DataFrame({"v": pd.Series(table["v"].combine_chunks(), dtype=pd.ArrowDtype(table["v"].type))})
    x = {"parquet": tmp_path / "x.parquet", "table": table.slice(0), "pandas": frame}[kind]
    if kind == "parquet":
        written(x, table.slice(0, 30), row_group_size=10)
        written(tmp_path / "y.parquet", table.slice(30), row_group_size=2)
        x = [x, tmp_path / "y.parquet"]
    source = open_source(x)
    assert source.read(0, 33).shape == (33, 3)
    for start in (31, 32, 33, 20):
        with pytest.raises(InputError, match=message):
            source.read(start, 35)
    assert source.read(34, 36).shape == (2, 3)  # the error has not disturbed what can be read
    with pytest.raises(InputError, match="row 37 has 1 values, row 0 has 3"):
        source.read(34, 38)


def test_bad_rows_at_the_beginning_are_told_at_opening(tmp_path):
    with pytest.raises(InputError, match="row 1 has 1 values, row 0 has 2"):
        open_source(written(tmp_path / "x.parquet", pa.table({"v": [[1.0, 2.0], [3.0]]})))
    with pytest.raises(InputError, match="row 0 has a missing value"):
        open_source(written(tmp_path / "x.parquet", pa.table({"v": [None, [3.0]]})))
    table = pa.table({"v": pa.array([[1.0], None], pa.list_(pa.float32(), 1))})
    with pytest.raises(InputError, match="row 1 has a missing value"):
        open_source(written(tmp_path / "x.parquet", table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"v": pa.array([], pa.list_(pa.float32()))}), r"0 sample\(s\)"),
        (pa.table({"v": pa.array([[], []], pa.list_(pa.float32()))}), r"0 feature\(s\)"),
        (pa.table({}), "no column left|is empty"),
    ],
)
def test_empty(tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        open_source(written(tmp_path / "x.parquet", table))
    with pytest.raises(InputError, match=message):
        open_source(table)


def test_files_must_agree(tmp_path, x):
    written(tmp_path / "a.parquet", list_table(x))
    written(tmp_path / "b.parquet", list_table(x).set_column(0, "v", pa.array(["text"] * 41)))
    with pytest.raises(InputError, match=r"column 'v' is list<.*float> in .*a.parquet, and string in .*b.parq"):
        open_source(tmp_path)
    written(tmp_path / "b.parquet", pa.table({"w": [1]}))
    with pytest.raises(InputError, match=r"and missing in .*b\.parquet"):
        open_source(tmp_path)


def test_a_dimension_of_one_file_only(tmp_path, x):
    for names in (["a.parquet", "b.parquet"], ["b.parquet", "a.parquet"]):
        written(tmp_path / names[0], pa.table({"x": x[:, 0], "y": x[:, 1]}))
        written(tmp_path / names[1], pa.table({"x": x[:, 0], "y": x[:, 1], "z": x[:, 2]}))
        with pytest.raises(InputError, match=r"column 'z' is .*missing in "):
            open_source(tmp_path)


NUMBERS = [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.uint16(), pa.int64(), pa.bool_()]
LISTS = [
    pa.list_,
    pa.large_list,
    pa.list_view,
    pa.large_list_view,
    lambda t: pa.list_(t, 3),
    lambda t: pa.fixed_shape_tensor(t, (3,)),
]
CARRIED = [
    [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())],
    [pa.int8(), pa.uint16(), pa.int64(), pa.null()],
    [pa.timestamp("s"), pa.timestamp("us")],
    [pa.float32(), pa.float64(), pa.int16()],
    [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.null()],
    [pa.struct({"a": pa.int32()}), pa.null()],
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data(), n_files=st.integers(2, 4), lists=st.booleans())
def test_types_that_differ_between_files(tmp_path, data, n_files, lists):
    """The vectors and the columns to keep have a type that holds the values of all files."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    family = data.draw(st.sampled_from(CARRIED))
    vectors, carried, dtypes = [], [], []
    for i in range(n_files):
        number, t = data.draw(st.sampled_from(NUMBERS)), data.draw(st.sampled_from(family))
        part = np.arange(9, dtype="f4").reshape(3, 3) + i if number != pa.bool_() else np.eye(3)
        part = part.astype(number.to_pandas_dtype())
        dtypes.append("u1" if number == pa.bool_() else part.dtype)
        if lists:
            make = data.draw(st.sampled_from(LISTS if number != pa.bool_() else LISTS[:5]))
            columns = {"v": pa.array(part.tolist(), make(number))}
        else:
            columns = {f"x{j}": pa.array(part[:, j].tolist(), number) for j in range(3)}
        plain = pa.array(VALUES[CARRIED.index(family)])
        kept = (
            pa.nulls(3)
            if t == pa.null()
            else plain.cast(t.value_type).dictionary_encode().cast(t)
            if pa.types.is_dictionary(t)
            else plain.cast(t)
        )
        written(folder / f"{i}.parquet", pa.table(columns | {"kept": kept}))
        vectors.append(part)
        carried += kept.to_pylist()
    source = open_source(folder, metadata_columns=["kept"])
    assert source.dtype == np.result_type(*dtypes)
    expected = np.concatenate([part.astype(source.dtype) for part in vectors])
    for start, stop in [(0, 3 * n_files), (1, 5), (2, 3)]:
        np.testing.assert_array_equal(source.read(start, stop), expected[start:stop])
        table = source.columns(["kept"], start, stop)
        assert table.column("kept").to_pylist() == carried[start:stop]
        assert table.schema == source.columns(["kept"], 0, 1).schema


VALUES = [
    ["a", "b", None],
    [1, 2, 3],
    [datetime.datetime(2024, 1, 1), None, datetime.datetime(2025, 1, 1)],
    [1, 2, 3],
    [[1], None, [2, 3]],
    [{"a": 1}, None, {"a": 2}],
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int64(), pa.float64()),
        (pa.uint64(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.string(), pa.int32()),
        (pa.bool_(), pa.int8()),
    ],
)
def test_columns_without_a_common_type_cannot_be_kept(tmp_path, x, one, other):
    """Before any work, and without the loss that a cast would bring."""
    for i, t in enumerate((one, other)):
        written(tmp_path / f"{i}.parquet", list_table(x, kept=pa.nulls(41).cast(t)))
    with pytest.raises(InputError, match=f"column 'kept' is {one} in .*0.parquet, and {other} in .*1.parquet"):
        open_source(tmp_path, metadata_columns=["kept"])
    assert open_source(tmp_path).n_rows == 82


def test_missing_and_foreign_files(tmp_path, x):
    path = written(tmp_path / "embeddings.parquet", list_table(x))
    with pytest.raises(MissingInputError, match=r"Did you mean 'embeddings\.parquet'"):
        open_source([path, tmp_path / "embedings.parquet"])
    with pytest.raises(MissingInputError, match="no file matches"):
        open_source(tmp_path / "*.parq")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"contains no Parquet or \.npy files and is not a zarr array"):
        open_source(tmp_path / "empty")
    for content in (b"", b"PAR1", b"some text that is long enough", path.read_bytes()[:-50]):
        (tmp_path / "other.parquet").write_bytes(content)
        with pytest.raises(InputError, match="not a Parquet file, or damaged"):
            open_source(tmp_path / "other.parquet")


def test_a_literal_name_comes_before_a_pattern(tmp_path, x):
    written(tmp_path / "x[1].parquet", list_table(x))
    written(tmp_path / "x1.parquet", list_table(x[:3]))
    assert open_source(tmp_path / "x[1].parquet").n_rows == 41
    assert open_source(tmp_path / "x[12].parquet").n_rows == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_damaged_files_give_input_errors_or_rows(tmp_path, position, byte):
    x = np.random.default_rng(0).standard_normal((41, 5)).astype("f4")
    path = tmp_path / "x.parquet"
    if not path.exists():
        written(path, list_table(x), row_group_size=20)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = byte
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(content)
    try:
        source = open_source(damaged)
        assert source.read(0, source.n_rows).shape == (source.n_rows, source.n_dims)
    except InputError:
        return


def test_a_moved_file_is_the_same_data(tmp_path, x):
    path = written(tmp_path / "x.parquet", list_table(x))
    before = open_source(path).fingerprint()
    assert open_source(path.rename(tmp_path / "y.parquet")).fingerprint() == before


def test_columns_keep_their_types(tmp_path, x):
    others = {
        "id": pa.array(range(41), pa.uint16()),
        "a.b": pa.array(["x", None] * 20 + ["y"]).dictionary_encode(),
        "day": [datetime.date(2024, 1, 1)] * 41,
    }
    source = open_source(written(tmp_path / "x.parquet", list_table(x, **others), row_group_size=9))
    kept = source.columns(["day", "a.b", "id"], 7, 30)
    assert kept.column_names == ["day", "a.b", "id"]
    assert kept.column("id").to_pylist() == list(range(7, 30))
    assert kept.column("a.b").to_pylist() == (["x", None] * 20 + ["y"])[7:30]
    assert kept.schema.field("id").type == pa.uint16()
    assert kept.schema.field("day").type == pa.date32()


def test_pandas_stays_out(tmp_path, x):
    path = written(tmp_path / "x.parquet", list_table(x, id=range(41)))
    code = f"""
import sys
from nomad_dask.sources import open_source
source = open_source({str(path)!r}, metadata_columns=["id"])
source.read(0, 41), source.columns(["id"], 0, 41)
print([m for m in ("pandas", "dask", "distributed", "zarr", "numba") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_one_large_row_group_is_not_held(tmp_path):
    """A row group of 100 MB is read in less than its size."""
    x = np.random.default_rng(0).standard_normal((100_000, 256), dtype="f4")
    path = written(tmp_path / "x.parquet", list_table(x, "fixed"))
    code = f"""
from nomad_dask.sources import open_source
def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024
import pyarrow.parquet
before = peak()
source = open_source({str(path)!r})
assert len(source.chunk_boundaries()) == 2
n = sum(len(rows) for _, rows in source.iterate(5_000))
assert n == 100_000
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 95


@pytest.mark.parametrize("kind", ["fixed", pa.list_])
def test_the_memory_of_decoding_is_bounded(tmp_path, kind):
    """What pyarrow holds at most, of a row group of 100 MB that is read in blocks of 5 MB."""
    x = np.random.default_rng(0).standard_normal((100_000, 256), dtype="f4")
    path = written(tmp_path / "x.parquet", list_table(x, kind))
    code = f"""
from nomad_dask.sources import open_source
import pyarrow as pa
source = open_source({str(path)!r})
(stretch,) = source.read_groups(5_000)
assert sum(len(source.read(start, stop)) for start, stop in stretch) == 100_000
print(pa.default_memory_pool().max_memory() >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40


def test_very_many_small_files(tmp_path, x, monkeypatch):
    """The footer of each is read once when they are opened, and each is opened once in a pass."""
    first = written(tmp_path / "part.0.parquet", list_table(x[:20]))
    for i in range(1, 5_000):
        (tmp_path / f"part.{i}.parquet").hardlink_to(first)
    footers, opened = [], []
    footer_of, open_file = parquet._read_footer, parquet._open_file
    monkeypatch.setattr(parquet, "_read_footer", lambda path, state: footers.append(path) or footer_of(path, state))
    monkeypatch.setattr(
        parquet, "_open_file", lambda path, *more: opened.append(path) or open_file(path, *more)
    )  # fmt: skip
    source = open_source(tmp_path)
    assert sorted(footers) == sorted(source.paths)
    assert len(source.paths) == 5_000
    assert opened == [source.paths[0]], "to look at the first rows"
    opened.clear()
    for stretch in source.read_groups(30_000):
        part = source.slice_rows(stretch[0][0], stretch[-1][1])
        for start, stop in stretch:
            np.testing.assert_array_equal(part.read(start, stop), np.tile(x[:20], ((stop - start) // 20, 1)))
    assert opened == list(source.paths)
    before = source.fingerprint()
    pickled = pickle.dumps(source.slice_rows(0, 200))
    assert len(pickled) < 5_000, "a task gets the names of its files only"
    part = first.with_name("part.3017.parquet")
    part.unlink()
    written(part, list_table(x[20:40]))
    assert open_source(tmp_path).fingerprint() != before, "every footer counts, with the extremes in it"
