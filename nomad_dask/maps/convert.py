"""An Arrow table as a frame of another library; a library that is missing is an error that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nomad_dask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def to_pandas(table: pa.Table) -> Any:
    """Return a table as a ``pandas.DataFrame``."""
    try:
        import pandas  # noqa: F401 - Arrow imports it, with a message that does not say what to install
    except ImportError as error:
        raise InputError(
            f"A pandas frame requires pandas, which cannot be imported ({error}): pip install pandas, or use "
            "to_arrow()."
        ) from error
    return table.to_pandas()


def to_dask(table: pa.Table, chunk_rows: int) -> Any:
    """Return a table as a ``dask.dataframe`` in partitions of `chunk_rows` rows."""
    try:
        import dask.dataframe as dd
    except ImportError as error:
        raise InputError(
            f"A Dask frame requires dask.dataframe, which cannot be imported ({error}): pip install 'dask[dataframe]'."
        ) from error
    from_pandas: Any = dd.from_pandas
    return from_pandas(to_pandas(table), chunksize=chunk_rows)


def to_cudf(table: pa.Table) -> Any:
    """Return a table as a ``cudf.DataFrame``."""
    try:
        import cudf
    except ImportError as error:
        raise InputError(
            f"A cuDF frame requires cuDF, and cudf cannot be imported ({error}): install RAPIDS, or use "
            "to_arrow().to_pandas()."
        ) from error
    return cudf.DataFrame.from_arrow(table)
