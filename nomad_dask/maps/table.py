"""The columns of a map: positions first, then the cell, then the columns carried along from the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.utils.array_types import AXES
from nomad_dask.utils.positions import position_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from nomad_dask.sources.base import Source

BLOCK_ROWS = 1 << 18


def row_blocks(n_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the row ranges in which a map is written; an empty map has one empty range."""
    for start in range(0, max(1, n_rows), BLOCK_ROWS):
        yield start, min(start + BLOCK_ROWS, n_rows)


def check_metadata_columns(metadata_columns: Sequence[str]) -> None:
    """Check that the columns to carry along have names of their own: not twice, nor those of the map's columns.

    Raises
    ------
    InputError
        A name is reserved or was given twice, or they are not a list.
    """
    if isinstance(metadata_columns, str):
        raise InputError(
            f"metadata_columns={metadata_columns!r} is not accepted: give a list of column names, such as "
            f"[{metadata_columns!r}]."
        )
    for i, name in enumerate(metadata_columns):
        if name in metadata_columns[:i]:
            raise InputError(f"The column {name!r} to keep was given twice: give it once.")
        if name in (*AXES, "cell"):
            raise InputError(f"The column {name!r} cannot be kept, the map has its own: rename it in the source.")


def build_table(positions: np.ndarray, columns: pa.Table) -> pa.Table:
    """Return the table of a map, or of some of its rows.

    Parameters
    ----------
    positions : ndarray of float32 (n, dim)
    columns : pyarrow.Table (n)
        The other columns.
    """
    import pyarrow as pa

    table = pa.table({axis: arrow_array(values) for axis, values in zip(AXES, positions.T, strict=False)})
    for field, column in zip(columns.schema, columns.columns, strict=True):
        table = table.append_column(field, column)
    return table


def split_table(table: pa.Table, name: str) -> tuple[np.ndarray, pa.Table]:
    """Return the positions (n, dim) as float32, and the other columns.

    Parameters
    ----------
    table : pyarrow.Table
    name : str
        Name of the table in error messages.

    Raises
    ------
    InputError
        The columns ``x`` and ``y`` are missing, not numbers or beyond the range of float32, or two columns have one
        name.
    """
    import pyarrow as pa

    axes = position_columns(table.schema, name)
    positions = np.empty((table.num_rows, len(axes)), np.float32)
    for i, axis in enumerate(axes):
        column = table.column(axis).cast(pa.float64(), safe=False)
        values = column.to_numpy()
        with np.errstate(over="ignore"):
            positions[:, i] = values
        lost = np.flatnonzero(np.isinf(positions[:, i]) & np.isfinite(values))
        if lost.size:
            raise InputError(
                f"{name}: {axis} = {values[lost[0]]} in row {lost[0]:,} is beyond the range of float32, "
                f"±{np.finfo(np.float32).max:.1e}: scale the positions down."
            )
    return positions, _without_views(table.drop_columns(axes))


def _without_views(table: pa.Table) -> pa.Table:
    """Return a table without Arrow's view types, which many of its functions do not take."""
    import pyarrow as pa

    others = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    fields = [field.with_type(others.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def input_columns(
    cell_labels: np.ndarray,
    source: Source,
    metadata_columns: Sequence[str],
    start: int,
    stop: int,
    schema: pa.Schema | None = None,
) -> pa.Table:
    """Return the columns beside the positions for rows `start` to `stop` of an input.

    Parameters
    ----------
    cell_labels : ndarray of int32 (n_rows,)
    source : Source
        The input, which provides `metadata_columns`.
    metadata_columns : sequence of str
    start, stop : int
    schema : pyarrow.Schema, optional
        Types of `metadata_columns`, as from `nomad_dask.maps.kept_schema`; by default those of these rows.
    """
    import pyarrow as pa

    table = pa.table({"cell": arrow_array(cell_labels[start:stop])})
    if metadata_columns:
        carried = source.columns(list(metadata_columns), start, stop)
        if schema is not None:
            carried = carried.cast(schema)
        for name in metadata_columns:
            table = table.append_column(carried.schema.field(name), carried.column(name))
    return table


def map_schema(dim: int, kept: pa.Schema | None) -> pa.Schema:
    """Return the types of a map, with those of the columns carried along."""
    import pyarrow as pa

    return pa.schema([*((axis, pa.float32()) for axis in AXES[:dim]), ("cell", pa.int32()), *(kept or ())])


def arrow_array(numbers: np.ndarray) -> pa.Array:
    """Return numbers as a flat Arrow array. Unlike `pyarrow.array`, this does not import pandas."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), numbers.size, buffers)
