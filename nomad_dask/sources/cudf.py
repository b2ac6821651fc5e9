"""Vectors in a cuDF data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.arrow import VectorColumns, find_vectors
from nomad_dask.sources.device import DeviceSource
from nomad_dask.sources.validation import check_shape, missing_value_error, native_dtype, row_length_error

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class CudfColumns:
    """The columns of a cuDF frame that hold the vectors, and the others.

    Attributes
    ----------
    labels : tuple
        Labels of the vector columns: one column of lists, or one column of numbers per dimension.
    lists : bool
        Whether the vectors are one column of lists.
    dtype : numpy.dtype
        Element type of the rows.
    others : dict of str to label
        Labels of the other columns, by name.
    """

    labels: tuple[Any, ...]
    lists: bool
    dtype: np.dtype[Any]
    others: dict[str, Any]


def find_cudf_columns(frame: Any, column: str | None, metadata_columns: Sequence[str], name: str) -> CudfColumns:
    """Choose the columns that hold the vectors, by the rules of `nomad_dask.sources.arrow.find_vectors`.

    Raises
    ------
    InputError
        The column does not exist or cannot hold vectors, or several columns could hold them.
    """
    labels = {str(label): label for label in frame.columns}
    if len(labels) < len(frame.columns):
        raise InputError(f"{name} has two columns of one name among {list(frame.columns)}: rename one of them.")
    schema = frame.iloc[:0].to_arrow(preserve_index=False).schema
    vectors: VectorColumns = find_vectors(schema, column, metadata_columns, name)
    others = {n: label for n, label in labels.items() if n not in vectors.names}
    dtype = native_dtype(vectors.dtype, name)
    return CudfColumns(tuple(labels[n] for n in vectors.names), vectors.lists, dtype, others)


def count_cudf_dims(frame: Any, columns: CudfColumns, start: int, name: str) -> int:
    """Return the number of dimensions, from the first row of a frame, which is row `start` of the data."""
    if not columns.lists:
        return len(columns.labels)
    first = frame[columns.labels[0]].iloc[:1]
    if first.null_count:
        raise missing_value_error(start, name)
    return int(first.list.len().values[0])


def cudf_vectors(frame: Any, columns: CudfColumns, n_dims: int, start: int, name: str) -> Any:
    """Return the vectors of a frame as a device array ``(rows, n_dims)``; a column of lists is not copied.

    Parameters
    ----------
    frame : cudf.DataFrame
    columns : CudfColumns
    n_dims : int
    start : int
        Row number of the frame's first row in the data.
    name : str
        Name of the data in error messages.

    Raises
    ------
    InputError
        A row has another length or a missing value; the message gives its number.
    """
    series = [frame[label] for label in columns.labels]
    for one in series:
        if one.null_count:
            raise missing_value_error(start + _first_true(one.isnull().values), name)
    if columns.lists:
        return _list_vectors(series[0], n_dims, start, name).astype(columns.dtype, copy=False)
    out = np.empty_like(series[0].values, dtype=columns.dtype, order="C", shape=(len(frame), n_dims))
    for j, one in enumerate(series):
        out[:, j] = one.values
    return out


def _list_vectors(lists: Any, n_dims: int, start: int, name: str) -> Any:
    lengths = lists.list.len().values
    differs = lengths != n_dims
    if bool(differs.any()):
        row = _first_true(differs)
        raise row_length_error(start + row, int(lengths[row]), n_dims, name)
    leaves = lists.list.leaves  # of a slice of a frame, only the values of its own rows
    if leaves.null_count:
        raise missing_value_error(start + _first_true(leaves.isnull().values) // n_dims, name)
    return leaves.values.reshape(len(lists), n_dims)


def cudf_table(frame: Any, columns: CudfColumns, names: Sequence[str]) -> pa.Table:
    """Return some of the other columns as an Arrow table, without the index."""
    table: pa.Table = frame[[columns.others[n] for n in names]].to_arrow(preserve_index=False)
    return table.rename_columns(list(names))


def _first_true(flags: Any) -> int:
    return int(flags.argmax())


class CudfSource(DeviceSource):
    """Rows of a cuDF data frame.

    A column of lists is used without a copy; cuDF holds at most 2³¹ − 1 numbers in one. Columns of numbers are
    copied into rows block by block.

    Parameters
    ----------
    frame : cudf.DataFrame
    column, metadata_columns
        As in `nomad_dask.sources.arrow.find_vectors`.

    Raises
    ------
    InputError
        The frame has no rows or no column of vectors, or rows of different lengths or with missing values.
    """

    def __init__(
        self, frame: Any, column: str | None, metadata_columns: Sequence[str], name: str = "the data frame"
    ) -> None:
        self.name = name
        self._frame = frame
        self._columns = find_cudf_columns(frame, column, metadata_columns, name)
        self.dtype = self._columns.dtype
        check_shape((len(frame), 1), name)
        n_dims = count_cudf_dims(frame, self._columns, 0, name)
        self.n_rows, self.n_dims = check_shape((len(frame), n_dims), name)
        self._rows = cudf_vectors(frame, self._columns, n_dims, 0, name) if self._columns.lists else None

    def read_device(self, start: int, stop: int) -> Any:
        """Return a view of the lists, or a copy of columns of numbers."""
        if self._rows is not None:
            return self._rows[start:stop]
        return cudf_vectors(self._frame.iloc[start:stop], self._columns, self.n_dims, start, self.name)

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self._columns.lists else [str(label) for label in self._columns.labels]

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Download a slice of the frame."""
        return cudf_table(self._frame.iloc[start:stop], self._columns, names)
