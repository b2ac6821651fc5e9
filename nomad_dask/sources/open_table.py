"""`open_table`: the source for tables and data frames in the format of Arrow, and for data sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source


def open_table(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    """Open an object of PyArrow or Polars.

    Parameters
    ----------
    x : object
        A table, record batch or data frame; a lazy frame, a reader or a scanner, which is read into memory; a data
        set, which is read into memory unless it consists of whole Parquet files.
    column, metadata_columns
        As in `nomad_dask.sources.open_source`.

    Raises
    ------
    InputError
        The object has no columns, or none that hold vectors.
    """
    import pyarrow as pa

    from nomad_dask.sources.arrow import TableSource

    files = _parquet_files(x)
    if files:
        from nomad_dask.sources.open_path import open_paths

        source = open_paths(files, column, metadata_columns)
        if source.n_rows == x.count_rows():  # it may have a filter
            return source
    name = f"the {type(x).__name__}"
    table = _read_table(x)
    if table is None:
        raise InputError(
            f"{name} is not a table: give one with a column of lists, as with pyarrow.table({{'vectors': x}}) or "
            "polars.DataFrame({'vectors': x})."
        )
    if not table.num_columns:
        raise InputError(f"{name} is empty: give at least one row and one column.")
    return TableSource(pa.table(table), column, metadata_columns, name)


def _read_table(x: Any) -> Any:
    """Return an object as an Arrow table, None if it is no table."""
    import pyarrow as pa

    if isinstance(x, pa.Table):
        return x
    if isinstance(x, pa.RecordBatch):
        return pa.Table.from_batches([x])
    for method in ("collect", "read_all", "to_table"):  # of lazy frames, readers, and data sets and scanners
        if callable(getattr(x, method, None)):
            x = getattr(x, method)()
            break
    return pa.table(x) if getattr(x, "ndim", 2) == 2 and hasattr(x, "columns") else None


def _parquet_files(x: Any) -> list[str]:
    """Return the paths of the Parquet files that make up a data set on this machine; else nothing."""
    import pyarrow as pa

    is_local = isinstance(getattr(x, "filesystem", None), pa.fs.LocalFileSystem) if hasattr(x, "files") else False
    return list(x.files) if is_local and x.format.default_extname == "parquet" else []
