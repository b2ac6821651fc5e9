from __future__ import annotations

import subprocess
import sys

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from tests.helpers.source_kinds import list_table


def test_an_open_source_passes_through(x):
    source = open_source(x)
    assert open_source(source) is source
    with pytest.raises(InputError, match=r"no column 'id' to keep\. There are none"):
        open_source(source, metadata_columns=["id"])


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_says_how_to_reduce(make, x):
    with pytest.raises(InputError, match=r"Sparse data is not supported.*TruncatedSVD"):
        open_source(make(x))


@pytest.mark.parametrize("x", [None, 3, object(), {"a": 1}, [[1, 2], [3]], [["a", "b"]], [[{}, 1]], set()])
def test_what_is_no_array(x):
    with pytest.raises(InputError):
        open_source(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dask.delayed, r"A dask\.delayed value is not accepted.* dask\.array\.from_delayed"),
        (
            lambda x: dd.from_pandas(pd.DataFrame(x), npartitions=2)[0],
            r"neither a Dask array nor a data.*to_frame",
        ),
        (lambda x: (row for row in x), r"the generator is not an array of rows: give an array or a list of rows"),
        (iter, "not an array of rows: give an array or a list of rows"),
        (lambda x: {"a": x}, "the dict is not an array of rows"),
        (
            lambda x: pa.chunked_array([pa.array(x.tolist())]),
            r"the ChunkedArray is not a table: give one",
        ),
        (lambda x: pa.array(x.tolist()), r"the ListArray is not a table: give one with a column"),
        (lambda x: pl.Series(x), r"the Series is not a table: give one with a column"),
        (lambda x: pa.table({}), "the Table is empty"),
        (
            lambda x: pa.table({"s": [{"a": 1.0}]}),
            r"not all its columns are numbers: 's' \(struct.*one column",
        ),
        (lambda x: pd.DataFrame(), r"0 sample\(s\)"),
        (lambda x: pd.DataFrame(index=range(3)), r"0 feature\(s\)"),
    ],
)
def test_what_to_do_with_other_objects(x, make, message):
    with pytest.raises(InputError, match=message):
        open_source(make(x))


def test_arrow_readers_and_data_sets(x, tmp_path):
    table = list_table(x, id=range(41), half=["a", "b"] * 20 + ["a"])
    pq.write_to_dataset(table, tmp_path / "plain", max_rows_per_group=9)
    pq.write_to_dataset(table, tmp_path / "parts", partition_cols=["half"])
    parts = np.concatenate([x[::2], x[1::2]])
    for make, expected, in_memory in [
        (lambda: pyarrow.dataset.dataset(tmp_path / "plain"), x, False),
        (lambda: pyarrow.dataset.dataset(tmp_path / "parts", partitioning="hive"), parts, False),
        (lambda: pyarrow.dataset.dataset(tmp_path / "plain").filter(pyarrow.dataset.field("id") > 30), x[31:], True),
        (lambda: pyarrow.dataset.dataset(table), x, True),
        (lambda: pyarrow.dataset.dataset(table).scanner(), x, True),
        (lambda: table.to_reader(max_chunksize=7), x, True),
    ]:
        source = open_source(make(), metadata_columns=["id"])
        np.testing.assert_array_equal(source.read(0, source.n_rows), expected)
        assert source.shareable != in_memory


def test_column_of_data_without_columns(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    for data in (x, tmp_path / "x.npy"):
        with pytest.raises(InputError, match="has no columns: leave it out"):
            open_source(data, column="v")


def test_masked_values(x):
    hidden = np.ma.masked_array(x, mask=x > 1)
    with pytest.raises(InputError, match="masked"):
        open_source(hidden)
    np.testing.assert_array_equal(open_source(np.ma.masked_array(x)).read(0, 41), x)


def test_zarr_group_names_its_arrays(x, tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("vectors", data=x, chunks=(7, 5), shards=(14, 5))
    with pytest.raises(InputError, match="a group of zarr arrays \\(vectors\\)"):
        open_source(tmp_path / "g.zarr")
    source = open_source(tmp_path / "g.zarr" / "vectors")
    np.testing.assert_array_equal(source.read(5, 30), x[5:30])
    assert source.blocks(20) == [(0, 14), (14, 28), (28, 41)]  # along the shards


def test_zarr_not_installed(tmp_path, monkeypatch):
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text("not JSON")
    with pytest.raises(InputError, match="cannot be read as a zarr array"):
        open_source(tmp_path / "x.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match=r"pip install 'nomad-dask\[zarr\]'"):
        open_source(tmp_path / "x.zarr")


def test_arrays_need_no_other_package(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
from nomad_dask.sources import open_source
import numpy as np
open_source({str(tmp_path / "x.npy")!r}).read(0, 9)
open_source(np.zeros((3, 2))).read(0, 3)
print([m for m in ("pandas", "pyarrow", "dask", "zarr", "polars", "scipy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
