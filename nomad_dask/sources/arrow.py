"""Vectors in the columns of Arrow data: choosing the columns, and converting them to rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nomad_dask.errors import InputError, suggest
from nomad_dask.sources.arrow_types import index_columns, list_dtype, number_dtype
from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import sampled_digest
from nomad_dask.sources.validation import ACCEPTED, check_shape, missing_value_error, row_length_error


@dataclass(frozen=True)
class VectorColumns:
    """The columns that hold the vectors.

    Attributes
    ----------
    names : tuple of str
        One column of lists, or one column of numbers per dimension.
    lists : bool
        Whether the vectors are one column of lists.
    dtype : numpy.dtype
        Element type of the rows.
    """

    names: tuple[str, ...]
    lists: bool
    dtype: np.dtype[Any]


def find_vectors(schema: pa.Schema, column: str | None, metadata_columns: Sequence[str], name: str) -> VectorColumns:
    """Choose the columns that hold the vectors.

    Parameters
    ----------
    schema : pyarrow.Schema
    column : str or None
        A column of lists of numbers. None chooses the only such column, or else all columns if all are numbers;
        `metadata_columns` and the index of a data frame are not considered.
    metadata_columns : sequence of str
    name : str
        Name of the data in messages.

    Raises
    ------
    InputError
        The column does not exist or cannot hold vectors, or several columns could hold them.
    """
    types: dict[str, Any] = {field.name: field.type for field in schema}
    if len(types) < len(schema.names):
        raise InputError(f"{name} has two columns of one name among {schema.names}: rename one of them.")
    lists = {n: dtype for n, t in types.items() if (dtype := list_dtype(t)) is not None}
    if column is not None:
        if column not in types:
            raise InputError(f"{name} has no column {column!r}. {suggest(column, types)}")
        if column not in lists:
            raise InputError(
                f"column {column!r} of {name} is {types[column]}: lists of float16, float32, float64, "
                "integers or booleans are accepted. Name such a column, or convert it."
            )
        return VectorColumns((column,), True, lists[column])
    carried = {*metadata_columns, *index_columns(schema)}
    candidates = [n for n in lists if n not in carried]
    if len(candidates) > 1:
        raise InputError(
            f"{name} has {len(candidates)} columns of vectors ({', '.join(map(repr, candidates))}): "
            "choose one with column=."
        )
    if candidates:
        return VectorColumns((candidates[0],), True, lists[candidates[0]])
    return _number_columns({n: t for n, t in types.items() if n not in carried}, name)


def _number_columns(types: dict[str, Any], name: str) -> VectorColumns:
    """Choose all of the given columns; all must be numbers."""
    numbers = {n: number_dtype(t) for n, t in types.items()}
    others = [f"{n!r} ({types[n]})" for n, dtype in numbers.items() if dtype is None]
    if others:
        raise InputError(not_all_numbers(others, name))
    if not numbers:
        raise InputError(f"{name} has no column left to take vectors from: list fewer columns in metadata_columns=.")
    return VectorColumns(tuple(numbers), False, np.result_type(*numbers.values()))


def not_all_numbers(others: Sequence[str], name: str) -> str:
    """Return the message for data with neither a column of lists of numbers nor only columns of numbers.

    Parameters
    ----------
    others : sequence of str
        Names and types of the columns that are not numbers.
    name : str
    """
    shown = ", ".join(others[:10]) + (", …" if len(others) > 10 else "")
    return (
        f"{name} has no column of lists of numbers, and not all its columns are numbers: {shown}. Write the vectors "
        f"as one column of lists ({ACCEPTED}), or list these columns in metadata_columns= if the others are vectors."
    )


def first_length(batch: pa.RecordBatch, vectors: VectorColumns, name: str) -> int:
    """Return the number of dimensions, from the first row of the data."""
    if not vectors.lists:
        return len(vectors.names)
    lengths = pc.list_value_length(_storage(batch.column(vectors.names[0])).slice(0, 1))
    if lengths.null_count:
        raise missing_value_error(0, name)
    return int(lengths[0].as_py())


def rows_of(
    batches: Iterable[pa.RecordBatch], vectors: VectorColumns, n_rows: int, n_dims: int, start: int, name: str
) -> np.ndarray:
    """Return the vectors of consecutive batches as one array; a single batch is not copied.

    Parameters
    ----------
    batches : iterable of RecordBatch
        They have `n_rows` rows in total; the first is row `start` of the data.

    Raises
    ------
    InputError
        A row has another length or a missing value; the message gives its number.
    """
    out: np.ndarray | None = None
    done = 0
    for batch in batches:
        part = _batch_rows(batch, vectors, n_dims, start + done, name)
        if len(part) == n_rows:
            out = part.astype(vectors.dtype, copy=False)
        else:
            out = np.empty((n_rows, n_dims), vectors.dtype) if out is None else out
            out[done : done + len(part)] = part
        done += len(part)
    return np.empty((0, n_dims), vectors.dtype) if out is None else out


def _batch_rows(batch: pa.RecordBatch, vectors: VectorColumns, n_dims: int, start: int, name: str) -> np.ndarray:
    columns = [_storage(batch.column(n)) for n in vectors.names]
    for column in columns:
        if column.null_count:
            raise missing_value_error(start + _first_null(column), name)
    if not vectors.lists:
        out = np.empty((batch.num_rows, n_dims), vectors.dtype)
        for j, column in enumerate(columns):
            out[:, j] = _numbers(column)
        return out
    lists = columns[0]
    lengths = _numbers(pc.list_value_length(lists))
    other = np.flatnonzero(lengths != n_dims)
    if other.size:
        raise row_length_error(start + int(other[0]), int(lengths[other[0]]), n_dims, name)
    values = lists.flatten()  # unlike .values, respects the offset of a slice
    if values.null_count:
        raise missing_value_error(start + _first_null(values) // n_dims, name)
    return _numbers(values).reshape(len(lists), n_dims)


def _storage(array: pa.Array) -> pa.Array:
    """Return the array in which one of an extension type is stored; other arrays unchanged."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _numbers(array: pa.Array) -> np.ndarray:
    """Return numbers without nulls as a view; booleans as a copy. Unlike `Array.to_numpy`, this imports no pandas."""
    array = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
    dtype = np.dtype(array.type.to_pandas_dtype())
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _first_null(array: pa.Array) -> int:
    return int(pc.index(array.is_valid(), False).as_py())


class TableSource(Source):
    """Rows of an Arrow table in memory.

    Parameters
    ----------
    table : pyarrow.Table
    column, metadata_columns
        As in `find_vectors`.

    Raises
    ------
    InputError
        The table has no rows or no column of vectors.
    """

    shareable = False

    def __init__(self, table: pa.Table, column: str | None, metadata_columns: Sequence[str], name: str) -> None:
        self.name = name
        self._table = table
        self.vectors = find_vectors(table.schema, column, metadata_columns, name)
        check_shape((table.num_rows, 1), name)
        # The first batches may be empty.
        first = next(b for b in table.select(list(self.vectors.names)).to_batches() if b.num_rows)
        n_dims = first_length(first, self.vectors, name)
        self.n_rows, self.n_dims = check_shape((table.num_rows, n_dims), name)
        self.dtype = self.vectors.dtype

    def _batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        part = self._table.select(list(self.vectors.names)).slice(start, stop - start)
        yield from part.to_batches()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a view of one chunk of lists, or a copy."""
        batches = self._batches(start, stop)
        return rows_of(batches, self.vectors, stop - start, self.n_dims, start, self.name)

    def fingerprint(self) -> str:
        """Digest a sample of the rows."""
        return sampled_digest(self)

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self.vectors.lists else list(self.vectors.names)

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return [n for n in self._table.schema.names if n not in self.vectors.names]

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Slice the table."""
        return self._table.select(list(names)).slice(start, stop - start)
