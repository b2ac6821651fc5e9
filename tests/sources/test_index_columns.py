"""The index of a data frame is no dimension, in whatever format it comes."""

from __future__ import annotations

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from tests.helpers.device_arrays import to_frame

INDEXES = {
    "range": lambda frame: frame,
    "shuffled": lambda frame: frame.sample(frac=1, random_state=0),
    "named": lambda frame: frame.sample(frac=1, random_state=0).rename_axis("key"),
    "text": lambda frame: frame.set_axis([f"r{i}" for i in range(len(frame))]),
    "times": lambda frame: frame.set_axis(pd.date_range("2024", periods=len(frame))),
    "several": lambda frame: frame.assign(a=range(len(frame)), b=1.5).set_index(["a", "b"]),
    "several without names": lambda frame: frame.set_axis(pd.MultiIndex.from_product([range(41), [0]])),
    "one of the columns": lambda frame: frame.assign(x9=range(41)).set_index("x9"),
}


def parquet_of_pandas(frame, folder):
    frame.to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def parquet_with_index(frame, folder):
    frame.to_parquet(folder / "x.parquet", index=True)
    return folder / "x.parquet"


def parquet_of_dask(frame, folder):
    with dask.config.set({"dataframe.convert-string": False}):
        dd.from_pandas(frame, npartitions=3, sort=False).to_parquet(folder / "x")
    return folder / "x"


def parquet_of_tables(frame, folder):
    pq.write_table(pa.Table.from_pandas(frame), folder / "x.parquet", row_group_size=7)
    return [folder / "x.parquet"]


def arrow(frame, folder):
    return pa.Table.from_pandas(frame, preserve_index=True)


def record_batch(frame, folder):
    return pa.RecordBatch.from_pandas(frame, preserve_index=True)


def feather(frame, folder):
    pyarrow.feather.write_feather(arrow(frame, folder), folder / "x.feather")
    return pyarrow.feather.read_table(folder / "x.feather")


def pandas(frame, folder):
    return frame


def pandas_read_again(frame, folder):
    return pd.read_parquet(parquet_of_pandas(frame, folder))


def dask_frame(frame, folder):
    return dd.from_pandas(frame, npartitions=3, sort=False)


def dask_read_again(frame, folder):
    return dd.read_parquet(parquet_of_pandas(frame, folder))


def polars_read(frame, folder):
    return pl.read_parquet(parquet_of_pandas(frame, folder))


def dask_read_with_index_as_column(frame, folder):
    return dd.read_parquet(parquet_of_dask(frame, folder), index=False)


def cudf(frame, folder):
    return to_frame(pa.Table.from_pandas(frame, preserve_index=True))


FORMATS = [parquet_of_pandas, parquet_with_index, parquet_of_dask, parquet_of_tables, arrow, record_batch, feather]
FORMATS += [pandas, pandas_read_again, dask_frame, dask_read_again]
# Those that forget which columns are the index; pandas and Dask give one without a name an unmistakable name.
FORGETFUL = [polars_read, dask_read_with_index_as_column, cudf]


def has_such_an_index(make, index):
    """Dask has no index of several columns, and fails on a named range; names of an index are lost in some formats."""
    if make is dask_read_again and index == "one of the columns":
        return False
    if make in FORGETFUL and index in ("named", "several", "one of the columns"):
        return False
    return "several" not in index or make not in (parquet_of_dask, dask_frame, dask_read_with_index_as_column)


@pytest.mark.parametrize(
    ("make", "index"),
    [(make, index) for make in FORMATS + FORGETFUL for index in INDEXES if has_such_an_index(make, index)],
)
def test_the_index_is_no_dimension(tmp_path, x, make, index):
    frame = INDEXES[index](pd.DataFrame(x).add_prefix("x"))
    source = open_source(make(frame, tmp_path))
    expected = frame[[f"x{j}" for j in range(5)]].to_numpy()
    np.testing.assert_array_equal(source.read(0, 41), expected)
    assert source.n_dims == 5


def test_an_index_can_be_carried_along(tmp_path, x):
    frame = INDEXES["named"](pd.DataFrame(x).add_prefix("x"))
    for data in (parquet_of_pandas(frame, tmp_path), arrow(frame, tmp_path)):
        source = open_source(data, metadata_columns=["key"])
        assert source.n_dims == 5
        assert source.columns(["key"], 0, 41).column("key").to_pylist() == list(frame.index)


def test_files_with_and_without_an_index(tmp_path, x):
    frame = pd.DataFrame(x).add_prefix("x")
    for first, second in (("range", "shuffled"), ("named", "range"), ("shuffled", "several")):
        expected = []
        for i, index in enumerate((first, second)):
            INDEXES[index](frame).to_parquet(tmp_path / f"{i}.parquet")
            expected.append(INDEXES[index](frame).to_numpy())
        np.testing.assert_array_equal(open_source(tmp_path).read(0, 82), np.concatenate(expected))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    text=st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"[]", b"null", b"3", b'{"index_columns": 3}', b'{"index_columns": [3, null, ["x0"]]}']),
        st.sampled_from([b'{"index_columns": {"x0": 1}}', b"[" * 100_000, b'{"index_columns": "x0"}']),
    )
)
def test_metadata_that_pandas_has_not_written(tmp_path, text):
    table = pa.table({"x0": [1.0, 2.0], "x1": [3.0, 4.0]}).replace_schema_metadata({b"pandas": text})
    assert open_source(table).n_dims == 2
    pq.write_table(table, tmp_path / "x.parquet")
    assert open_source(tmp_path / "x.parquet").n_dims == 2


def test_nothing_but_an_index(tmp_path):
    frame = pd.DataFrame(index=pd.Index([3, 1, 2], name="key"))
    with pytest.raises(InputError, match="no column left"):
        open_source(parquet_of_pandas(frame, tmp_path))
