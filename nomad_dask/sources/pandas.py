"""Vectors in a pandas data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.sources.arrow import VectorColumns, rows_of
from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import sampled_digest
from nomad_dask.sources.validation import check_shape, missing_value_error, native_dtype, row_length_error

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class FrameColumns:
    """Which columns of a data frame hold the vectors, and which are beside them.

    Columns are known by their position, as labels need not be text.

    Attributes
    ----------
    vectors : tuple of int
        One column of lists, or several of numbers.
    lists : bool
        Which of both.
    dtype : numpy.dtype
    others : dict of str to int
        Position by name of the columns beside.
    """

    vectors: tuple[int, ...]
    lists: bool
    dtype: np.dtype[Any]
    others: dict[str, int]


def find_columns(frame: pd.DataFrame, column: str | None, metadata_columns: Sequence[str], name: str) -> FrameColumns:
    """Choose the columns that hold the vectors.

    Parameters
    ----------
    frame : DataFrame
        The whole, or its beginning.
    column : str or None
        A column of lists or arrays of numbers. None takes all columns when all are numbers, or else the
        only one of lists; columns to `metadata_columns` are left aside.

    Raises
    ------
    InputError
        No such column, none that can be it, or more than one.
    """
    labels = [str(label) for label in frame.columns]
    if column is not None:
        if labels.count(column) != 1:
            raise InputError(f"{name} has {labels.count(column)} columns {column!r}. {suggest(column, labels)}")
        at = labels.index(column)
        return FrameColumns((at,), True, _list_type(frame, at, name), _others(labels, (at,)))
    free = [i for i, label in enumerate(labels) if label not in metadata_columns]
    numbers = {i: dtype for i in free if (dtype := _number_type(frame.dtypes.iloc[i])) is not None}
    if free and len(numbers) == len(free):
        common = native_dtype(np.result_type(*numbers.values()), name)
        return FrameColumns(tuple(free), False, common, _others(labels, free))
    lists = [i for i in free if _holds_lists(frame, i)]
    if len(lists) == 1:
        return FrameColumns((lists[0],), True, _list_type(frame, lists[0], name), _others(labels, lists))
    if lists:
        named = ", ".join(repr(labels[i]) for i in lists)
        raise InputError(f"{name} has {len(lists)} columns of vectors ({named}): say which with column=.")
    rest = [f"{labels[i]!r} ({frame.dtypes.iloc[i]})" for i in free if i not in numbers]
    raise InputError(
        f"{name} has no column of lists of numbers, and not all its columns are numbers: "
        f"{', '.join(rest[:10]) or 'none is left'}. Name the column of vectors with column=, or set these "
        "aside with metadata_columns=."
    )


def _others(labels: Sequence[str], vectors: Sequence[int]) -> dict[str, int]:
    return {label: i for i, label in enumerate(labels) if i not in vectors}


def _number_type(dtype: Any) -> np.dtype[Any] | None:
    """Return the NumPy type of a column of numbers, nullable ones included; None for other columns."""
    known = getattr(dtype, "numpy_dtype", dtype)
    return known if isinstance(known, np.dtype) and known.kind in "iuf" else None


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple, np.ndarray))


def _holds_lists(frame: pd.DataFrame, at: int) -> bool:
    return len(frame) > 0 and _is_list(frame.iat[0, at])


def _list_type(frame: pd.DataFrame, at: int, name: str) -> np.dtype[Any]:
    """Return the element type of a column of lists, by its first row; lists of Python are float64."""
    label, dtype = frame.columns[at], frame.dtypes.iloc[at]
    check_shape((len(frame), 1), name)
    cell: Any = frame.iat[0, at]
    if not _is_list(cell):
        hint = (
            " Dask turns columns of objects into text unless told otherwise: "
            "dask.config.set({'dataframe.convert-string': False}) before the frame is made."
            if isinstance(cell, str)
            else ""
        )
        raise InputError(
            f"column {label!r} of {name} is {dtype} and holds {type(cell).__name__} in row 0, not vectors: "
            f"lists or arrays of numbers are accepted. Name such a column.{hint}"
        )
    element: Any = np.float64
    if isinstance(cell, np.ndarray):
        element = cell.dtype
    elif hasattr(dtype, "pyarrow_dtype"):
        element = dtype.pyarrow_dtype.value_type.to_pandas_dtype()
    return native_dtype(element, f"{name}, column {label!r}")


def count_dims(frame: pd.DataFrame, columns: FrameColumns) -> int:
    """Return the number of dimensions, by the first row."""
    if not columns.lists:
        return len(columns.vectors)
    first: Any = frame.iat[0, columns.vectors[0]]
    return len(first)


def frame_rows(frame: pd.DataFrame, columns: FrameColumns, n_dims: int, start: int, name: str) -> np.ndarray:
    """Return the vectors of a piece of a frame, whose first row is row `start` of the whole.

    Raises
    ------
    InputError
        A row of another length, of no list, or with a missing value. It is named.
    """
    if columns.lists:
        cells = frame.iloc[:, columns.vectors[0]]
        if hasattr(cells.dtype, "pyarrow_dtype"):
            return _arrow_rows(cells, columns.dtype, n_dims, start, name)
        return _stack(cells.to_list(), columns.dtype, n_dims, start, name)
    numbers = frame.iloc[:, list(columns.vectors)]
    if columns.dtype.kind == "f":
        values = numbers.to_numpy(columns.dtype, na_value=np.nan)
    else:
        missing = numbers.isna().to_numpy().any(axis=1)
        if missing.any():
            raise missing_value_error(start + int(np.argmax(missing)), name)
        values = numbers.to_numpy(columns.dtype)
    return np.ascontiguousarray(values)


def _arrow_rows(cells: pd.Series[Any], dtype: np.dtype[Any], n_dims: int, start: int, name: str) -> np.ndarray:
    """Return the vectors of a column that pandas keeps as Arrow lists."""
    import pyarrow as pa

    table = pa.table({"vectors": cells.array.__arrow_array__()})
    return rows_of(table.to_batches(), VectorColumns(("vectors",), True, dtype), len(cells), n_dims, start, name)


def _stack(cells: Sequence[Any], dtype: np.dtype[Any], n_dims: int, start: int, name: str) -> np.ndarray:
    out = np.empty((len(cells), n_dims), dtype)
    for i, cell in enumerate(cells):
        if not _is_list(cell):
            raise InputError(f"{name}: row {start + i} is {cell!r}, not a vector. Remove the row or fill it in.")
        if len(cell) != n_dims:
            raise row_length_error(start + i, len(cell), n_dims, name)
        try:
            np.copyto(out[i], cell, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}: row {start + i} cannot be read as {dtype} ({error}). Give all rows one type."
            ) from error
    return out


def frame_table(frame: pd.DataFrame, columns: FrameColumns, names: Sequence[str], name: str) -> pa.Table:
    """Return some columns beside the vectors as an Arrow table, without the index."""
    import pyarrow as pa

    part = frame.iloc[:, [columns.others[n] for n in names]]
    try:
        return pa.Table.from_pandas(part, preserve_index=False).rename_columns(list(names))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{name}: columns {', '.join(names)} cannot be kept ({error}). Give each of them one type."
        ) from error


class FrameSource(Source):
    """Rows of a pandas data frame.

    Parameters
    ----------
    frame : DataFrame
    column, metadata_columns
        As in `find_columns`.

    Raises
    ------
    InputError
        No rows, or no column that holds vectors.
    """

    shareable = False

    def __init__(self, frame: pd.DataFrame, column: str | None, metadata_columns: Sequence[str], name: str) -> None:
        self.name = name
        self._frame = frame
        self._columns = find_columns(frame, column, metadata_columns, name)
        check_shape((len(frame), 1), name)
        self.n_rows, self.n_dims = check_shape((len(frame), count_dims(frame, self._columns)), name)
        self.dtype = self._columns.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a view of columns of one type, or a copy."""
        rows = frame_rows(self._frame.iloc[start:stop], self._columns, self.n_dims, start, self.name)
        rows.flags.writeable = False  # a frame of one type is read as a view
        return rows

    def fingerprint(self) -> str:
        """Digest a sample of the rows."""
        return sampled_digest(self)

    def column_names(self) -> list[str]:
        """Return all columns but those of the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Convert a slice of the frame."""
        return frame_table(self._frame.iloc[start:stop], self._columns, names, self.name)
