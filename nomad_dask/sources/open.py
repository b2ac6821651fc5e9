"""`open_source`: a source of vectors for any input that is accepted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from nomad_dask.errors import InputError, suggest
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import library_of


def open_source(x: Any, column: str | None = None, metadata_columns: Sequence[str] = ()) -> Source:
    """Open vectors in files, behind URLs or in memory.

    Parameters
    ----------
    x : path-like, list of path-like, array-like, data frame or Source
        A ``.npy`` file or a Parquet file; a directory of them, a pattern with ``*``, ``?`` or ``[ ]``, or a
        list of them, whose rows follow each other; a directory of a zarr array; a URL of any of these, such as
        ``s3://bucket/x.npy``;
        anything that NumPy converts to a two-dimensional array; a pandas or Polars frame or an Arrow table, reader or
        dataset of Parquet files; a
        CuPy array or a cuDF frame, which stay in GPU memory; a Dask array or data frame, also on GPUs.
        Files of a directory or a pattern are sorted by name, with numbers by value.
    column : str, optional
        The column that holds the vectors, for data with columns. Not required if there is only one candidate.
    metadata_columns : sequence of str
        Columns to carry along to the map; they do not hold vectors.

    Returns
    -------
    Source

    Raises
    ------
    MissingInputError
        A path does not exist.
    InputError
        The data cannot be mapped, or a column does not exist.
    """
    if isinstance(metadata_columns, str):
        raise InputError(
            f"metadata_columns={metadata_columns!r} is not accepted: give a list of column names, "
            f"such as [{metadata_columns!r}]."
        )
    source = _open(x, column, metadata_columns)
    available = source.column_names()
    for name in metadata_columns:
        if name not in available:
            raise InputError(f"{source.name} has no column {name!r} to keep. {suggest(name, available)}")
    return source


def _open(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    if isinstance(x, Source):
        return x
    paths = [x] if isinstance(x, (str, os.PathLike)) else x
    if isinstance(paths, (list, tuple)) and paths and all(isinstance(p, (str, os.PathLike)) for p in paths):
        from nomad_dask.sources.open_path import open_paths

        return open_paths(paths, column, metadata_columns)
    if _is_on_device(x):
        from nomad_dask.sources.open_device import open_device

        return open_device(x, column, metadata_columns)
    library = library_of(x)
    if library == "dask":
        return _open_dask(x, column, metadata_columns)
    if library == "pandas" and x.ndim == 2:
        from nomad_dask.sources.pandas import FrameSource

        return FrameSource(x, column, metadata_columns, "the data frame")
    if library in ("pyarrow", "polars"):
        from nomad_dask.sources.open_table import open_table

        return open_table(x, column, metadata_columns)
    if type(x).__module__.startswith("scipy.sparse"):
        raise InputError(
            f"Sparse data is not supported: a {type(x).__name__} of shape {x.shape} was given, dense vectors "
            "are accepted. Reduce it first, as with sklearn.decomposition.TruncatedSVD(256).fit_transform(X)."
        )
    from nomad_dask.sources.numpy import open_array

    _refuse_column(column, f"the {type(x).__name__}")
    return open_array(x)


def _refuse_column(column: str | None, name: str) -> None:
    if column is not None:
        raise InputError(f"column={column!r} was given, but {name} has no columns: leave it out.")


def _is_on_device(x: Any) -> bool:
    """Return whether data is in GPU memory, itself or as the partitions of a Dask collection."""
    return library_of(getattr(x, "_meta", x)) in ("cupy", "cupyx", "cudf")


def _open_dask(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    from nomad_dask.sources import dask

    if type(x).__module__ == "dask.delayed":  # it has any attribute
        raise InputError(
            "A dask.delayed value is not accepted, as its shape is not known: make an array of it, as with "
            "dask.array.from_delayed(x, shape, dtype), or a data frame, as with dask.dataframe.from_delayed([x])."
        )
    if hasattr(x, "chunks"):
        _refuse_column(column, "the Dask array")
        return dask.DaskArraySource(x)
    if hasattr(x, "partitions") and hasattr(x, "columns") and x.ndim == 2:
        return dask.DaskFrameSource(x, column, metadata_columns)
    raise InputError(
        f"{type(x).__module__}.{type(x).__qualname__} is neither a Dask array nor a data frame: convert it, as with "
        "to_frame() or to_dataframe()."
    )
