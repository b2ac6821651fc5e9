"""The types of the columns that are carried along to a map: known, and checked, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_dask.errors import InputError, suggest
from nomad_dask.storage.table_formats import format_to_write
from nomad_dask.storage.table_writer import check_writable

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source


def kept_schema(source: Source, names: Sequence[str], output: Path | None = None) -> pa.Schema | None:
    """Return the types of the columns to carry along, which hold for all rows; None without columns.

    Parameters
    ----------
    source : Source
    names : sequence of str
    output : Path, optional
        File of the map; without it, any that Parquet can hold.

    Raises
    ------
    InputError
        A column does not exist or is there twice, or has values of several types, or a type that the file cannot hold.
    """
    if not names:
        return None
    available = source.column_names()
    for name in names:
        if name not in available:
            raise InputError(f"{source.name} has no column {name!r} to keep. {suggest(name, available)}")
        if available.count(name) > 1:
            raise InputError(f"{source.name} has two columns {name!r}: rename the one to keep.")
    schema = source.column_schema(names).remove_metadata()
    check_writable("Parquet" if output is None else format_to_write(output), schema)
    return schema
