"""Maps from files, tables and frames, and from the result of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.maps.files import read_table, table_metadata
from nomad_dask.maps.map import Map
from nomad_dask.maps.table import input_columns, row_blocks, split_table
from nomad_dask.utils.array_types import library_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source


def read_map(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, optional_columns: Sequence[str] = ()
) -> Map:
    """Read a map, or any Parquet, Arrow (Feather) or CSV file with the columns ``x`` and ``y``.

    Parameters
    ----------
    path : path-like
        CSV has no description of the run, and the types of its columns are found in its values.
    columns : sequence of str, optional
        Columns to read besides the positions; None reads all.
    optional_columns : sequence of str
        Further columns, read if they exist.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        The file cannot be read, has no positions, or lacks one of `columns`.
    """
    return _map_of_table(read_table(path, columns, optional_columns), repr(os.fspath(path)))


def as_map(x: Any) -> Map:
    """Return any object that holds a map as a `Map`.

    Parameters
    ----------
    x : Map, path-like, pyarrow.Table, or data frame of pandas, cuDF or Polars
        With the columns ``x`` and ``y``, and optionally ``z``.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        The object has no positions, or cannot be read.
    """
    import pyarrow as pa

    if isinstance(x, Map):
        return x
    if hasattr(x, "collect"):
        x = x.collect()  # a lazy Polars frame
    if isinstance(x, str | os.PathLike):
        return read_map(x)
    library = library_of(x)
    if library in ("pandas", "cudf", "polars") and hasattr(x, "columns"):
        try:
            table = pa.Table.from_pandas(x, preserve_index=False) if library == "pandas" else x.to_arrow()
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"The frame cannot be read as a table ({error}): give each column one type.") from error
        return _map_of_table(table, "The frame")
    if isinstance(x, pa.Table):
        try:
            x.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(f"The table holds invalid values ({error}): create it again.") from error
        return _map_of_table(x, "The table")
    raise InputError(f"A {type(x).__name__} is not a map: give a map, its path, an Arrow table or a data frame.")


def run_map(
    positions: np.ndarray,
    cell_labels: np.ndarray,
    source: Source,
    metadata_columns: Sequence[str],
    metadata: dict[str, Any],
    schema: pa.Schema | None = None,
) -> Map:
    """Return the result of a run as the map that `nomad_dask.maps.write_map` would write.

    Parameters
    ----------
    positions : ndarray of float32 (n, dim)
    cell_labels : ndarray of int32 (n,)
    source : Source
        Provides the columns to carry along.
    metadata_columns : sequence of str
    metadata : dict
        Plain values that describe the run.
    schema : pyarrow.Schema, optional
        Types of `metadata_columns`, as from `nomad_dask.maps.kept_schema`.
    """
    import pyarrow as pa

    blocks = [input_columns(cell_labels, source, metadata_columns, a, b, schema) for a, b in row_blocks(len(positions))]
    return Map(positions, pa.concat_tables(blocks), metadata, tuple(source.local_paths()))


def _map_of_table(table: pa.Table, name: str) -> Map:
    positions, columns = split_table(table, name)
    return Map(positions, columns, table_metadata(table, name))
