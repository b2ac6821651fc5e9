"""Every kind of data that can be opened: functions from a folder and an array to what the user gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def list_table(x, list_type=pa.list_, **others):
    """An Arrow table of a list column `v` and some others."""
    n_dims = x.shape[1]
    element = pa.from_numpy_dtype(x.dtype)
    values = pa.array(np.ascontiguousarray(x).ravel(), type=element)
    if list_type == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(values, n_dims)
    elif list_type is pa.large_list:
        lists = pa.LargeListArray.from_arrays(np.arange(len(x) + 1, dtype="i8") * n_dims, values)
    else:
        lists = pa.ListArray.from_arrays(np.arange(len(x) + 1, dtype="i4") * n_dims, values)
    return pa.table({"v": lists, **others})


def npy(folder, x):
    np.save(folder / "x.npy", np.ascontiguousarray(x))
    return folder / "x.npy"


def npy_fortran(folder, x):
    np.save(folder / "x.npy", np.asfortranarray(x))
    return str(folder / "x.npy")


def npy_big_endian(folder, x):
    np.save(folder / "x.npy", x.astype(x.dtype.newbyteorder(">")))
    return folder / "x.npy"


def memmap(folder, x):
    return np.load(npy(folder, x), mmap_mode="r")


def memmap_part(folder, x):
    np.save(folder / "x.npy", np.concatenate([x, x])[::-1])
    return np.load(folder / "x.npy", mmap_mode="r")[: len(x)][::-1]


def memmap_raw(folder, x):
    np.ascontiguousarray(x).tofile(folder / "x.raw")
    return np.memmap(folder / "x.raw", x.dtype, "r", shape=x.shape)


def numpy_array(folder, x):
    return x


def numpy_strided(folder, x):
    wide = np.zeros((2 * len(x), 2 * x.shape[1]), x.dtype)
    wide[::2, 1::2] = x
    return wide[::2, 1::2]


def numpy_big_endian(folder, x):
    return x.astype(x.dtype.newbyteorder(">"))


def numpy_readonly(folder, x):
    x = np.asfortranarray(x)
    x.flags.writeable = False
    return x


class WithArray:
    def __init__(self, x):
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return self._x


def with_array(folder, x):
    return WithArray(x)


def lists_of_lists(folder, x):
    return x.tolist()


def pandas_numbers(folder, x):
    return pd.DataFrame(x)


def pandas_lists(folder, x):
    return pd.DataFrame({"id": range(len(x)), "v": list(x), "text": "a"})


def pandas_arrow_lists(folder, x):
    lists = list_table(x).column("v").combine_chunks()
    return pd.DataFrame({"id": range(len(x)), "v": pd.Series(lists, dtype=pd.ArrowDtype(lists.type))})


def arrow_lists(folder, x):
    return pa.concat_tables([list_table(x[:7]), list_table(x[:0]), list_table(x[7:])])


def arrow_sliced(folder, x):
    return list_table(np.concatenate([x[:3], x, x[:2]]), "fixed").slice(3, len(x))


def arrow_large_lists(folder, x):
    return list_table(x, pa.large_list)


def arrow_numbers(folder, x):
    return pa.table({f"x{j}": x[:, j] for j in range(x.shape[1])})


def polars_arrays(folder, x):
    return pl.DataFrame({"id": range(len(x)), "v": pl.Series(x)})


def polars_lazy(folder, x):
    return polars_arrays(folder, x).lazy()


def parquet(folder, x):
    pq.write_table(list_table(x, "fixed"), folder / "x.parquet", row_group_size=7)
    return folder / "x.parquet"


def parquet_lists(folder, x):
    pq.write_table(list_table(x, pa.large_list, id=range(len(x))), folder / "x.pq", row_group_size=7)
    return folder / "x.pq"


def parquet_directory(folder, x):
    # Dask's names: part.10 comes after part.9
    for i, part in enumerate(np.array_split(x, 11)):
        pq.write_table(list_table(part), folder / f"part.{i}.parquet", row_group_size=2)
    (folder / "_metadata").write_bytes(b"left aside")
    return folder


def parquet_glob(folder, x):
    return f"{parquet_directory(folder, x)}/part.*.parquet"


def parquet_paths(folder, x):
    return sorted(parquet_directory(folder, x).glob("part*"), key=lambda p: int(p.name.split(".")[1]))


def parquet_numbers(folder, x):
    pq.write_table(arrow_numbers(folder, x), folder / "x.parquet", row_group_size=7)
    return folder / "x.parquet"


def zarr_array(folder, x):
    import zarr

    zarr.create_array(folder / "x.zarr", data=x, chunks=(7, 2), overwrite=True)
    return folder / "x.zarr"


def dask_array(folder, x):
    import dask.array as da

    return da.from_array(x, chunks=(7, 2))


def dask_unknown_chunks(folder, x):
    import dask.array as da

    return da.from_array(np.concatenate([x, np.ones_like(x)]), chunks=7)[da.arange(2 * len(x), chunks=7) < len(x)]


def dask_numbers(folder, x):
    import dask.dataframe as dd

    return dd.from_pandas(pandas_numbers(folder, x).add_prefix("x"), npartitions=4)


def dask_lists(folder, x):
    import dask.dataframe as dd

    pq.write_table(list_table(x, id=range(len(x))), folder / "x.parquet", row_group_size=7)
    return dd.read_parquet(folder / "x.parquet", split_row_groups=True)


FILES = [npy, npy_fortran, npy_big_endian, memmap, parquet, parquet_lists, parquet_directory, parquet_glob]
FILES += [parquet_paths, parquet_numbers, zarr_array]
LAZY = [dask_array, dask_unknown_chunks, dask_numbers, dask_lists]
IN_MEMORY = [
    memmap_part,
    memmap_raw,
    numpy_array,
    numpy_strided,
    numpy_big_endian,
    numpy_readonly,
    with_array,
]
IN_MEMORY += [lists_of_lists, pandas_numbers, pandas_lists, pandas_arrow_lists, arrow_lists, arrow_sliced]
IN_MEMORY += [arrow_large_lists, arrow_numbers, polars_arrays, polars_lazy]
