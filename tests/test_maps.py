"""The map as a file: rows in input order, read by anything, and refused when it is none."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.maps import as_map, kept_schema, plot, read_map, write_map
from nomad_dask.metrics import score
from nomad_dask.params import Params
from nomad_dask.pipeline.options import OutputOptions
from nomad_dask.pipeline.run import project
from nomad_dask.site.export import export
from nomad_dask.sources import open_source
from tests.helpers import site_maps as sites
from tests.helpers.runs import blobs, make_map

N = 700


@pytest.fixture(params=[2, 3])
def positions(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, request.param)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(blobs(N, 4).ravel()), 4)
    names = pa.array([None if i % 7 == 0 else f"row {i}" for i in range(N)])
    columns = {"id": np.arange(N)[::-1], "name": names, "group": names.dictionary_encode(), "v": vectors}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=150)
    return tmp_path / "in.parquet"


CELLS = np.arange(N, dtype=np.int32) % 13


@pytest.mark.parametrize("block_rows", [1 << 18, 100, N])
def test_what_is_written_is_read(positions, table, tmp_path, monkeypatch, block_rows):
    monkeypatch.setattr("nomad_dask.maps.table.BLOCK_ROWS", block_rows)
    metadata = {"version": "1", "params": Params().as_dict(), "diagnostics": {"recall": 0.5, "loss": None}}
    write_map(tmp_path / "m.parquet", positions, CELLS, open_source(table), ["name", "id", "group"], metadata)
    found = read_map(tmp_path / "m.parquet")
    np.testing.assert_array_equal(found.positions, positions)
    assert found.positions.dtype == np.float32
    assert found.metadata == metadata
    assert found.table.column_names == ["cell", "name", "id", "group"]
    source = pq.read_table(table)
    for name in ("name", "id", "group"):
        assert found.table.column(name).to_pylist() == source.column(name).to_pylist()
    assert found.table.schema.field("cell").type == pa.int32()
    np.testing.assert_array_equal(found.table.column("cell"), CELLS)


def test_others_read_it_as_it_is(positions, table, tmp_path):
    import pandas as pd
    import polars as pl

    write_map(tmp_path / "m.parquet", positions, CELLS, open_source(table), ["name"], {})
    axes = ["x", "y", "z"][: positions.shape[1]]
    frame = pd.read_parquet(tmp_path / "m.parquet")
    assert list(frame.columns) == [*axes, "cell", "name"]
    assert set(frame.dtypes[axes]) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(frame[axes], positions)
    np.testing.assert_array_equal(pl.read_parquet(tmp_path / "m.parquet").select(axes).to_numpy(), positions)


def test_nothing_is_left_of_a_map_that_could_not_be_written(positions, table, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path / "m.parquet", positions, CELLS, open_source(table), [], {"x": object()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.parquet"]


@pytest.mark.parametrize("name", ["x", "y", "z", "cell"])
def test_columns_of_the_maps_own_cannot_be_kept(table, tmp_path, name):
    with pytest.raises(InputError, match=f"The column '{name}' cannot be kept"):
        make_map(table, output=tmp_path / "m.parquet", metadata_columns=[name], n_epochs=1)
    assert not (tmp_path / "m.parquet").exists()


def test_the_pipeline_writes_rows_in_input_order(table, tmp_path):
    result = make_map(table, output=tmp_path / "m.parquet", metadata_columns=["id"], n_epochs=5, n_shards=2)
    found = read_map(tmp_path / "m.parquet")
    np.testing.assert_array_equal(found.positions, result.positions)
    np.testing.assert_array_equal(found.table.column("cell"), result.cell_labels)
    np.testing.assert_array_equal(found.table.column("id"), np.arange(N)[::-1])
    assert found.metadata["params"] == Params(n_epochs=5, n_shards=2).as_dict()
    assert found.metadata["source"]["rows"] == N
    assert found.metadata["source"]["fingerprint"] == open_source(table).fingerprint()


def test_any_table_with_x_and_y_is_a_map(tmp_path):
    pq.write_table(pa.table({"name": ["a", "b"], "y": [1, 2], "x": [3.5, 4.5]}), tmp_path / "t.parquet")
    found = read_map(tmp_path / "t.parquet")
    np.testing.assert_array_equal(found.positions, np.float32([[3.5, 1], [4.5, 2]]))
    assert found.metadata == {}
    assert found.table.column_names == ["name"]


def test_what_is_no_map_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match=r"The map .* does not exist"):
        read_map(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_map(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1.0], "yy": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"has no column 'y', so it is not a map\. Did you mean 'yy'"):
        read_map(tmp_path / "t.parquet")
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"x": np.arange(5000.0), "y": np.arange(5000.0)}), whole)
    (tmp_path / "part.parquet").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_map(tmp_path / "part.parquet")


def test_an_output_that_cannot_be_written_is_said_before_the_work(table, tmp_path, monkeypatch):
    monkeypatch.setattr("nomad_dask.pipeline.run.connect_for", None)  # no work: it would not even connect
    (tmp_path / "there.parquet").write_text("")
    for output, message in [
        (tmp_path / "there.parquet", "exists"),
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "m.parquet", "does not exist"),
        (Path("/proc/m.parquet"), "cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            make_map(table, output=output)


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow", ".csv"])
def test_every_format_is_read_back_by_every_command(positions, table, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("nomad_dask.maps.table.BLOCK_ROWS", 300)
    metadata = {"params": {"metric": "cosine"}}
    path = tmp_path / f"m{suffix}"
    write_map(path, positions, CELLS, open_source(table), ["name", "group"], metadata)
    found = read_map(path)
    np.testing.assert_array_equal(found.positions, positions)
    assert found.table.column("group").to_pylist() == pq.read_table(table).column("group").to_pylist()
    assert found.metadata == ({} if suffix == ".csv" else metadata)
    dim = positions.shape[1]
    axes = None if dim == 2 else ("x", "z")
    drawn = plot(path, tmp_path / "p.png", color="group", axes=axes, size=(300, 240)).read_bytes()
    assert drawn == found.plot(tmp_path / "q.png", color="group", axes=axes, size=(300, 240)).read_bytes()
    assert export(path, tmp_path / "site", color=["group"], axes=axes).rows == N
    texts = sites.texts(tmp_path / "site")
    np.testing.assert_array_equal(np.float32(texts.column("@x")), positions[:, 0])
    np.testing.assert_array_equal(np.float32(texts.column("@y")), positions[:, dim - 1])
    assert texts.column("name").to_pylist() == found.table.column("name").to_pylist()
    again = {".csv": found.to_csv, ".parquet": found.to_parquet}.get(suffix, found.to_feather)(tmp_path / f"n{suffix}")
    np.testing.assert_array_equal(read_map(again).positions, positions)


def test_a_name_that_promises_another_format_is_refused(tmp_path):
    found = as_map(pa.table({"x": [1.0], "y": [2.0], "tags": pa.array([["a"]])}))
    with pytest.raises(InputError, match=r"not a name for a file in the format Parquet: use one ending in \.parquet"):
        found.to_parquet(tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"in the format CSV: use one ending in \.csv"):
        found.to_csv(tmp_path / "m")
    with pytest.raises(InputError, match=r"'tags' holds list<.*CSV cannot hold"):
        found.to_csv(tmp_path / "m.csv")
    assert read_map(found.to_parquet(tmp_path / "m")).table.column("tags").to_pylist() == [["a"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": ["a"], "y": [1.0]}, r"'x' of .* holds string: positions must be numbers"),
        ({"x": [True], "y": [1.0]}, r"'x' of .* holds bool"),
        ({"x": pa.array([[1.0]]), "y": [1.0]}, r"'x' of .* holds list<"),
        ({"x": pa.array([{"a": 1}]), "y": [1.0]}, r"'x' of .* holds struct<"),
        ({"x": pa.array([b"1"]), "y": [1.0]}, r"'x' of .* holds binary"),
        ({"x": [1e300], "y": [1.0]}, r"x = 1e\+300 in row 0 is beyond the range of float32.*scale the positions down"),
        ({"embedding": pa.array([[1.0]]), "id": [1]}, r"no column 'x'.*It has 'embedding', 'id'\. A.*nomad-dask fit"),
        ({"id": [1]}, r"no column 'x', so it is not a map\. It has 'id'\. A map has the columns 'x' and 'y': give"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given_as", ["file", "table", "frame", "plot"])
def test_what_has_no_positions_is_refused(tmp_path, columns, message, given_as):
    content = pa.table(columns)
    pq.write_table(content, tmp_path / "m.parquet")
    give = {
        "file": lambda: read_map(tmp_path / "m.parquet", columns=[]),
        "plot": lambda: plot(tmp_path / "m.parquet", tmp_path / "p.png"),
        "table": lambda: as_map(content),
        "frame": lambda: as_map(content.to_pandas(types_mapper=pd.ArrowDtype)),
    }[given_as]
    with pytest.raises(InputError, match=message):
        give()


@pytest.mark.parametrize("name", ["x", "z", "a"])
def test_columns_that_are_there_twice(tmp_path, name):
    content = pa.Table.from_arrays([pa.array([1.0])] * 4, ["x", "y", name, name if name != "x" else "b"])
    pq.write_table(content, tmp_path / "m.parquet")
    frame = pd.DataFrame([[1.0] * 4], columns=content.column_names)
    for found in (tmp_path / "m.parquet", content, frame):
        with pytest.raises(InputError, match=r"twice|Duplicate"):
            as_map(found)


def test_positions_of_any_size_are_drawn_and_scored(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    for number, values in enumerate(
        [
            (X * 2**60).astype(np.int64),
            np.full((60, 2), 2**62),
            2**62 + np.arange(120).reshape(60, 2),
            X * 1e37,
            X * 1e-40,
            np.sign(X) * np.finfo(np.float32).max,
        ]
    ):
        columns = {"x": values[:, 0], "y": values[:, 1], "v": X[:, 0] * 5e307, "w": X[:, 1]}
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        found = read_map(tmp_path / "m.parquet")
        found.plot(tmp_path / f"{number}.png", color="v", labels="v", size=(300, 240))
        found.explore("w")
        with pytest.raises(InputError, match="beyond the range of float32 that a notebook view has"):
            found.explore("v")
        assert "data:image/png" in found._repr_html_()
        assert export(tmp_path / "m.parquet", tmp_path / f"{number}").rows == 60
        assert score(X, found.positions).n_queries == 60


BROKEN = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[1]",
    b"5",
    b"null",
    b"[" * 100_000,
    b'{"params": 5, "source": [], "diagnostics": "x"}',
]


@pytest.mark.parametrize("encoded", BROKEN, ids=range(len(BROKEN)))
def test_broken_metadata_are_left_out(tmp_path, encoded):
    content = pa.table({"x": [1.0, 2, 3], "y": [1.0, 2, 5]}).replace_schema_metadata({b"nomad_dask": encoded})
    pq.write_table(content, tmp_path / "m.parquet")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_map(tmp_path / "m.parquet")
        assert "data:image/png" in found._repr_html_()
        found.plot(tmp_path / "p.png", size=(300, 240))
        assert found.metric() == "euclidean"
    assert "which distance" in str(caught[-1].message)
    assert ("cannot be read" in str(caught[0].message)) == (encoded not in (b"", BROKEN[-1]))
    assert export(tmp_path / "m.parquet", tmp_path / "site").rows == 3


def test_a_metric_that_is_not_known_is_refused():
    found = as_map(
        pa.table({"x": [1.0], "y": [1.0]}).replace_schema_metadata({"nomad_dask": '{"params": {"metric": 3}}'})
    )
    with pytest.raises(InputError, match="with the metric 3, which is not known: give --metric"):
        found.metric()


def mixed(n: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "vector": list(blobs(n, 4)),
            "mixed": pd.Series([1] * (n - 1) + ["a"], dtype=object),
            "late": pd.Series([None] * (n - 1) + ["a"], dtype=object),
            "numbers": pd.Series([1] * (n - 1) + [2.5], dtype=object),
            "tags": [["a"]] * n,
            "odd": pd.Series([object()] * n),
            "name": ["a"] * n,
            "cell": ["a"] * n,
        }
    )


@pytest.mark.parametrize("as_dask", [False, True])
@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["mixed"], "m.parquet", "columns mixed cannot be kept"),
        (["odd"], "m.parquet", "columns odd cannot be kept"),
        (["tags"], "m.csv", r"'tags' holds list<.*CSV cannot hold"),
        (["name", "name"], "m.parquet", "'name' to keep was given twice"),
        (["cell"], "m.parquet", "'cell' cannot be kept"),
        (["name"], "m.txt", "use a name ending in"),
        ("name", "m.parquet", r"'name' is not accepted: give a list"),
        (["nmae"], "m.parquet", "no column 'nmae'"),
    ],
)
def test_columns_that_cannot_be_kept_are_said_before_the_work(tmp_path, monkeypatch, names, output, message, as_dask):
    monkeypatch.setattr("nomad_dask.pipeline.run.connect_for", None)  # no work: it would not even connect
    frame = mixed()
    if as_dask:
        with dask.config.set({"dataframe.convert-string": False}):
            frame = dd.from_pandas(frame, npartitions=3)
    open_kept = partial(open_source, column="vector", metadata_columns=names)
    with pytest.raises(InputError, match=message):
        project(open_kept(frame), Params(), output=OutputOptions(tmp_path / output, names))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("as_dask", [False, True])
def test_a_column_has_the_type_of_all_its_rows(tmp_path, monkeypatch, as_dask):
    monkeypatch.setattr("nomad_dask.maps.table.BLOCK_ROWS", 9)
    frame = mixed()
    if as_dask:
        with dask.config.set({"dataframe.convert-string": False}):
            frame = dd.from_pandas(frame, npartitions=3)
    source = open_source(frame, column="vector", metadata_columns=["late", "numbers"])
    names = ["late", "numbers"]
    schema = kept_schema(source, names, tmp_path / "m.parquet")
    write_map(tmp_path / "m.parquet", np.zeros((40, 2), np.float32), np.zeros(40, np.int32), source, names, {}, schema)
    back = read_map(tmp_path / "m.parquet").table
    assert back.column("late").to_pylist() == [None] * 39 + ["a"]
    assert back.column("numbers").to_pylist() == [1.0] * 39 + [2.5]
