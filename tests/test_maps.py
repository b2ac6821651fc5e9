"""The map as a Parquet file: rows in input order, read by anything, and refused when it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.maps import read_map, write_map
from nomad_dask.params import Params
from nomad_dask.sources import open_source
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
    with pytest.raises(TypeError):
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
    with pytest.raises(MissingInputError, match="There is no map"):
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
    monkeypatch.setattr("nomad_dask.pipeline.run.connect", None)  # no work: it would not even connect
    (tmp_path / "there.parquet").write_text("")
    for output, message in [
        (tmp_path / "there.parquet", "exists"),
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "m.parquet", "does not exist"),
        (Path("/proc/m.parquet"), "cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            make_map(table, output=output)
