from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source


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
