"""Maps as Parquet files: columns in the table, the description of the run as JSON in the schema metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.maps import table as map_table
from nomad_dask.storage.atomic import atomic_write
from nomad_dask.utils.array_types import AXES

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
    """Write the map of a source atomically, block by block.

    Parameters
    ----------
    path : Path
    positions : ndarray of float32 (n, dim)
    cell_labels : ndarray of int32 (n,)
    source : Source
        Provides the columns to carry along.
    metadata_columns : sequence of str
    metadata : dict
        Plain values, written to the schema metadata.
    schema : pyarrow.Schema, optional
        Types of `metadata_columns`, as from `nomad_dask.maps.kept_schema`.
    """
    import pyarrow.parquet as pq

    with atomic_write(path) as partial:
        writer = None
        for start, stop in map_table.row_blocks(len(positions)):
            columns = map_table.input_columns(cell_labels, source, metadata_columns, start, stop, schema)
            table = _with_metadata(map_table.build_table(positions[start:stop], columns), metadata)
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def write_table(path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Write the table of a map atomically, with the metadata of its run."""
    import pyarrow.parquet as pq

    with atomic_write(path) as partial:
        pq.write_table(
            _with_metadata(table, metadata), partial, compression="zstd", row_group_size=map_table.BLOCK_ROWS
        )


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, optional_columns: Sequence[str] = ()
) -> pa.Table:
    """Read the table of a map.

    Parameters
    ----------
    path : path-like
    columns : sequence of str, optional
        Columns to read besides the positions; None reads all.
    optional_columns : sequence of str
        Further columns, read if they exist.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        The file is not a Parquet file, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    if not file.exists():
        raise MissingInputError(f"There is no map {str(file)!r}: give a file that 'nomad-dask fit' made.")
    try:
        names = pq.read_schema(file).names
        for name in columns or ():
            if name not in names:
                raise InputError(f"{file} has no column {name!r}. {suggest(name, names)}")
        selected = None if columns is None else [n for n in names if n in {*AXES, *columns, *optional_columns}]
        return pq.read_table(file, columns=selected)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{str(file)!r} cannot be read as Parquet ({error}): give a map.") from error


def table_metadata(table: pa.Table) -> dict[str, Any]:
    """Return the metadata of the run that made a table; empty if the table is not from this package."""
    encoded = (table.schema.metadata or {}).get(_METADATA_KEY)
    return json.loads(encoded) if encoded else {}


def _with_metadata(table: pa.Table, metadata: dict[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata)})
