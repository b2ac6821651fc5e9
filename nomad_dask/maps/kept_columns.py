"""The types of the columns that are carried along to a map: known, and checked, before any work."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nomad_dask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source


def kept_schema(source: Source, names: Sequence[str]) -> pa.Schema | None:
    """Return the types of the columns to carry along, which hold for all rows; None without columns.

    Parameters
    ----------
    source : Source
    names : sequence of str

    Raises
    ------
    InputError
        A column has values of several types, or a type that Parquet files cannot hold.
    """
    if not names:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = source.column_schema(names)
    for field in schema:
        try:
            with pq.ParquetWriter(io.BytesIO(), pa.schema([field])):
                pass
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"The column {field.name!r} of {source.name} cannot be kept: its type {field.type} cannot be written "
                f"to Parquet ({error}). Convert it, or leave it out."
            ) from error
    return schema.remove_metadata()
