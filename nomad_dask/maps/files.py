"""Maps as files: a table, with the description of the run as JSON in the schema metadata."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, NomadWarning, suggest
from nomad_dask.maps import table as map_table
from nomad_dask.maps.kept_columns import kept_schema
from nomad_dask.storage.open_table import open_table
from nomad_dask.storage.table_formats import Format, check_suffix, format_to_write
from nomad_dask.storage.table_writer import check_writable, table_writer
from nomad_dask.utils.array_types import AXES
from nomad_dask.utils.positions import position_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source

_METADATA_KEY = b"nomad_dask"


def write_map(
    path: Path,
    positions: np.ndarray,
    cell_labels: np.ndarray,
    source: Source,
    metadata_columns: Sequence[str],
    metadata: dict[str, Any],
    schema: pa.Schema | None = None,
) -> None:
    """Write the map of a source atomically, block by block, in the format of the suffix.

    Parameters
    ----------
    path : Path
    positions : ndarray of float32 (n, dim)
    cell_labels : ndarray of int32 (n,)
    source : Source
        Provides the columns to carry along.
    metadata_columns : sequence of str
    metadata : dict
        Plain values, written to the schema metadata; CSV has none.
    schema : pyarrow.Schema, optional
        Types of `metadata_columns`, as from `nomad_dask.maps.kept_schema`.
    """
    if schema is None:
        schema = kept_schema(source, metadata_columns, path)
    described = _with_metadata(map_table.map_schema(positions.shape[1], schema), metadata)
    with table_writer(path, format_to_write(path), described) as write:
        for start, stop in map_table.row_blocks(len(positions)):
            columns = map_table.input_columns(cell_labels, source, metadata_columns, start, stop, schema)
            table = map_table.build_table(positions[start:stop], columns)
            write(table.replace_schema_metadata(described.metadata))


def write_table(path: Path, kind: Format, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Write the table of a map atomically, in a format that its name does not contradict."""
    check_suffix(path, kind)
    check_writable(kind, table.schema)
    schema = _with_metadata(table.schema, metadata)
    with table_writer(path, kind, schema) as write:
        for start, stop in map_table.row_blocks(table.num_rows):
            write(table.slice(start, stop - start).replace_schema_metadata(schema.metadata))


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, optional_columns: Sequence[str] = ()
) -> pa.Table:
    """Read the table of a map.

    Parameters
    ----------
    path : path-like
        A Parquet, Arrow or CSV file.
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
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is not a path: give the path of a map, such as 'map.parquet'.")
    file = open_table(Path(path))
    names = file.schema.names
    position_columns(file.schema, repr(os.fspath(path)))
    for name in columns or ():
        if name not in names:
            raise InputError(f"{os.fspath(path)!r} has no column {name!r}. {suggest(name, names)}")
    wanted = names if columns is None else [n for n in names if n in {*AXES, *columns, *optional_columns}]
    return file.read(wanted)


def table_metadata(table: pa.Table, name: str) -> dict[str, Any]:
    """Return the metadata of the run that made a table; empty if the table is not from this package.

    Metadata that cannot be read is left out with a warning: positions and columns do not need it.
    """
    encoded = (table.schema.metadata or {}).get(_METADATA_KEY)
    if not encoded:
        return {}
    try:
        metadata = json.loads(encoded)
        if not isinstance(metadata, dict):
            raise ValueError(f"it holds {type(metadata).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        warnings.warn(
            f"The description of the run in {name} cannot be read ({error}): the map is used without it.",
            NomadWarning,
            stacklevel=2,
        )
        return {}
    return metadata


def _with_metadata(schema: pa.Schema, metadata: dict[str, Any]) -> pa.Schema:
    try:
        encoded = json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise InputError(f"The metadata of the map cannot be written ({error}): use plain values only.") from error
    return schema.with_metadata({_METADATA_KEY: encoded})
