from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from tests.helpers.source_kinds import list_table


def make_pandas(x):
    return pd.DataFrame({"id": range(len(x)), "v": list(x), "text": [f"t{i}" for i in range(len(x))]})


def make_polars(x):
    return pl.DataFrame({"id": range(len(x)), "v": pl.Series(x), "text": [f"t{i}" for i in range(len(x))]})


def make_arrow(x):
    return list_table(x, id=range(len(x)), text=[f"t{i}" for i in range(len(x))])


def make_record_batch(x):
    return make_arrow(x).combine_chunks().to_batches()[0]


def make_dask(x):
    import dask
    import dask.dataframe as dd

    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_pandas(make_pandas(x), npartitions=3)


@pytest.fixture(params=[make_pandas, make_polars, make_arrow, make_record_batch, make_dask])
def make_frame(request):
    return request.param


def test_columns_are_carried(make_frame, x):
    source = open_source(make_frame(x), metadata_columns=["id", "text"])
    assert sorted(source.column_names()) == ["id", "text"]
    kept = source.columns(["text", "id"], 5, 40)
    assert isinstance(kept, pa.Table)
    assert kept.column_names == ["text", "id"]
    assert kept.column("id").to_pylist() == list(range(5, 40))
    assert kept.column("text").to_pylist() == [f"t{i}" for i in range(5, 40)]
    np.testing.assert_array_equal(source.read(5, 40), x[5:40])


def test_column_by_name(make_frame, x):
    np.testing.assert_array_equal(open_source(make_frame(x), column="v").read(0, 41), x)
    with pytest.raises(InputError, match=r"column.* 'w'"):
        open_source(make_frame(x), column="w")
    with pytest.raises(InputError, match=r"lists (of float16|or arrays of numbers)"):
        open_source(make_frame(x), column="text")
    with pytest.raises(InputError, match=r"no column 'txt' to keep\. Did you mean 'text'"):
        open_source(make_frame(x), column="v", metadata_columns=["txt"])


def test_numbers_beside_what_is_kept(x):
    frame = pd.DataFrame(x).assign(name="a", id=range(41))
    with pytest.raises(InputError, match="not all its columns are numbers: 'name'"):
        open_source(frame)
    source = open_source(frame, metadata_columns=["name", "id"])
    np.testing.assert_array_equal(source.read(3, 20), x[3:20])
    assert source.dtype == np.float32
    assert source.columns(["id"], 3, 20).column("id").to_pylist() == list(range(3, 20))


def test_pandas_columns_of_several_types(x):
    frame = pd.DataFrame({"a": x[:, 0], "b": np.arange(41, dtype="i2"), "c": pd.array([1, None] * 20 + [2], "Float32")})
    source = open_source(frame)
    assert source.dtype == np.result_type("f4", "i2")
    rows = source.read(0, 41)
    np.testing.assert_array_equal(rows[:, :2], np.stack([x[:, 0], np.arange(41)], axis=1))
    assert np.isnan(rows[1, 2])  # for the check of rows to name
    assert rows[0, 2] == 1


def test_pandas_missing_integers_are_named():
    frame = pd.DataFrame({"a": pd.array([1, 2, None, None], "Int32"), "b": [1, 2, 3, 4]})
    source = open_source(frame)
    assert source.read(0, 2).dtype == np.int64
    with pytest.raises(InputError, match="row 2 has a missing value"):
        source.read(1, 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, 2.0], "row 30 has 2 values, row 0 has 5"),
        (None, "row 30 is None, not a vector"),
        (["a"] * 5, "row 30 cannot be read as float32"),
        (float("nan"), "row 30 is nan, not a vector"),
    ],
)
def test_pandas_bad_cells_are_named(x, bad, message):
    frame = make_pandas(x)
    frame.at[30, "v"] = bad
    with pytest.raises(InputError, match=message):
        open_source(frame).read(20, 40)


def test_pandas_two_columns_of_vectors(x):
    frame = make_pandas(x).assign(w=list(x))
    with pytest.raises(InputError, match="2 columns of vectors \\('v', 'w'\\)"):
        open_source(frame)
    assert open_source(frame, metadata_columns=["w"]).n_dims == 5


def test_empty_frames():
    for frame in (pd.DataFrame({"a": []}), pd.DataFrame(np.zeros((0, 3))), pl.DataFrame({"a": [[1.0]]})[:0]):
        with pytest.raises(InputError, match=r"0 sample\(s\)"):
            open_source(frame)


def test_views_of_a_frame_cannot_be_written(x):
    frame = pd.DataFrame(x)
    rows = open_source(frame).read(0, 10)
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1
    frame.iloc[0, 0] = 5  # the frame itself still can
    assert frame.iat[0, 0] == 5


def test_columns_that_mix_types_cannot_be_kept(x):
    frame = make_pandas(x).assign(mixed=pd.Series([1, "a"] * 20 + [None], dtype=object))
    with pytest.raises(InputError, match="mixed cannot be kept"):
        open_source(frame, metadata_columns=["mixed"]).columns(["mixed"], 0, 41)
