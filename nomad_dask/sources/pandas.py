"""Vectors in a pandas data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.sources.arrow import VectorColumns, not_all_numbers, rows_of
from nomad_dask.sources.arrow_types import is_index_name, list_dtype
from nomad_dask.sources.base import Source
from nomad_dask.sources.fingerprint import sampled_digest
from nomad_dask.sources.validation import check_shape, missing_value_error, native_dtype, row_length_error

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class FrameColumns:
    """The columns of a data frame that hold the vectors, and the others.

    Columns are identified by position, because labels may be of any type.

    Attributes
    ----------
    vectors : tuple of int
        One column of lists, or one column of numbers per dimension.
    lists : bool
        Whether the vectors are one column of lists.
    dtype : numpy.dtype
    others : dict of str to int
        Positions of the other columns, by name.
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
        The data, or its first rows.
    column : str or None
        A column of lists or arrays of numbers. None chooses all columns if all are numbers, or else the only column
        of lists; `metadata_columns` and an index that was written as a column are not considered.

    Raises
    ------
    InputError
        The column does not exist or cannot hold vectors, or several columns could hold them.
    """
    labels = [str(label) for label in frame.columns]
    if not labels:
        check_shape(frame.shape, name)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"{name} has two columns of one name, {twice!r}: rename one of them.")
    if column is not None:
        if labels.count(column) != 1:
            raise InputError(f"{name} has {labels.count(column)} columns {column!r}. {suggest(column, labels)}")
        position = labels.index(column)
        list_type = _list_type(frame, position, name)
        return FrameColumns((position,), True, list_type, _others(labels, (position,)))
    candidates = [i for i, label in enumerate(labels) if label not in metadata_columns and not is_index_name(label)]
    numbers = {i: dtype for i in candidates if (dtype := _number_type(frame.dtypes.iloc[i])) is not None}
    if candidates and len(numbers) == len(candidates):
        common = native_dtype(np.result_type(*numbers.values()), name)
        return FrameColumns(tuple(candidates), False, common, _others(labels, candidates))
    lists = [i for i in candidates if _holds_lists(frame, i)]
    if len(lists) == 1:
        return FrameColumns((lists[0],), True, _list_type(frame, lists[0], name), _others(labels, lists))
    if lists:
        named = ", ".join(repr(labels[i]) for i in lists)
        raise InputError(f"{name} has {len(lists)} columns of vectors ({named}): choose one with column=.")
    if not candidates:
        raise InputError(f"{name} has no column left to take vectors from: list fewer columns in metadata_columns=.")
    check_shape((len(frame), 1), name)
    hint = "".join({_text_hint(frame.iat[0, i]) for i in candidates})
    others = [f"{labels[i]!r} ({frame.dtypes.iloc[i]})" for i in candidates if i not in numbers]
    raise InputError(not_all_numbers(others, name) + hint)


def _others(labels: Sequence[str], vectors: Sequence[int]) -> dict[str, int]:
    return {label: i for i, label in enumerate(labels) if i not in vectors}


def _number_type(dtype: Any) -> np.dtype[Any] | None:
    """Return the NumPy dtype of a column of numbers or booleans, also of a nullable one; None for other columns."""
    numpy_dtype = getattr(dtype, "numpy_dtype", dtype)
    return numpy_dtype if isinstance(numpy_dtype, np.dtype) and numpy_dtype.kind in "iufb" else None


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple, np.ndarray))


def _holds_lists(frame: pd.DataFrame, position: int) -> bool:
    return len(frame) > 0 and _is_list(frame.iat[0, position])


def _text_hint(cell: Any) -> str:
    """Return what to do about a list that has become text."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return ""
    return (
        " Dask converts object columns to strings by default: call "
        "dask.config.set({'dataframe.convert-string': False}) before the frame is created."
    )


def _list_type(frame: pd.DataFrame, position: int, name: str) -> np.dtype[Any]:
    """Return the element type of a column of lists, from its first row; Python lists are read as float64."""
    label, dtype = frame.columns[position], frame.dtypes.iloc[position]
    check_shape((len(frame), 1), name)
    cell: Any = frame.iat[0, position]
    if not _is_list(cell):
        raise InputError(
            f"column {label!r} of {name} is {dtype} and holds {type(cell).__name__} in row 0, not vectors: "
            f"lists or arrays of numbers are accepted. Name such a column.{_text_hint(cell)}"
        )
    element: Any = np.float64
    if isinstance(cell, np.ndarray):
        element = cell.dtype
    elif hasattr(dtype, "pyarrow_dtype"):
        element = list_dtype(dtype.pyarrow_dtype) or np.dtype(object)
    return native_dtype(element, f"{name}, column {label!r}")


def count_dims(frame: pd.DataFrame, columns: FrameColumns) -> int:
    """Return the number of dimensions, from the first row."""
    if not columns.lists:
        return len(columns.vectors)
    first: Any = frame.iat[0, columns.vectors[0]]
    return len(first)


def frame_rows(frame: pd.DataFrame, columns: FrameColumns, n_dims: int, start: int, name: str) -> np.ndarray:
    """Return the vectors of a slice of a frame whose first row is row `start` of the data.

    Raises
    ------
    InputError
        A row is not a list, or has another length or a missing value; the message gives its number.
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
    """Return the vectors of a column that pandas stores as Arrow lists."""
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
                f"{name}: row {start + i} cannot be read as {dtype} ({error}). Use one dtype for all rows."
            ) from error
    return out


def frame_table(frame: pd.DataFrame, columns: FrameColumns, names: Sequence[str], name: str) -> pa.Table:
    """Return some of the other columns as an Arrow table, without the index."""
    import pyarrow as pa

    part = frame.iloc[:, [columns.others[n] for n in names]]
    try:
        return pa.Table.from_pandas(part, preserve_index=False).rename_columns(list(names))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{name}: columns {', '.join(names)} cannot be kept ({error}). Give each of them one type that Arrow has."
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
        The frame has no rows or no column of vectors.
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
        """Return a read-only view if all columns have one dtype, else a copy."""
        rows = frame_rows(self._frame.iloc[start:stop], self._columns, self.n_dims, start, self.name)
        rows.flags.writeable = False  # it may be a view of the frame
        return rows

    def fingerprint(self) -> str:
        """Digest a sample of the rows."""
        return sampled_digest(self)

    def dimension_names(self) -> list[str] | None:
        """Return the names of the columns, if they are columns of numbers."""
        return None if self._columns.lists else [str(self._frame.columns[i]) for i in self._columns.vectors]

    def column_names(self) -> list[str]:
        """Return the names of all columns that do not hold the vectors."""
        return list(self._columns.others)

    def columns(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Convert a slice of the frame."""
        return frame_table(self._frame.iloc[start:stop], self._columns, names, self.name)

    def column_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the types of the named columns, from all their values."""
        return self.columns(names, 0, self.n_rows).schema
