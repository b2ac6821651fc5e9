"""The values of a column of any kind: groups of equal values, or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST_ROWS = 10_000  # which show of most columns that they are not categories


@dataclass(frozen=True)
class ValueGroups:
    """The rows of a column by value.

    Attributes
    ----------
    codes : ndarray of int64 (n_rows,)
        For each row the number of its value, in order of appearance; -1 for a missing one.
    values : pyarrow.Array (n_values,)
    counts : ndarray of int64 (n_values,)
        Number of rows.
    """

    codes: np.ndarray
    values: Any
    counts: np.ndarray

    def most_frequent(self, n: int) -> np.ndarray:
        """Return the numbers of the most frequent values; of equally frequent ones, those that appear first."""
        return np.lexsort((np.arange(len(self.counts)), -self.counts))[:n]

    def names(self, numbers: np.ndarray) -> list[str]:
        """Return some values as text."""
        import pyarrow as pa

        return _as_text(self.values.take(pa.array(numbers, pa.int64())))


def as_arrow(column: Any, name: str = "The column") -> pa.ChunkedArray:
    """Return a column of any kind (Arrow, NumPy, pandas, cuDF, list) as Arrow.

    Raises
    ------
    InputError
        Its values are of mixed types.
    """
    import pyarrow as pa

    if hasattr(column, "to_arrow"):
        column = column.to_arrow()
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        if isinstance(column, np.ndarray) and column.dtype.kind == "U":
            column = column.tolist()  # Arrow would cut the texts at a null character
        try:
            column = pa.array(column, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"{name} cannot be read ({error}): give values of one type.") from error
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())  # many functions do not take views
    return pa.chunked_array([column]) if isinstance(column, pa.Array) else column


def check_groupable(column: pa.ChunkedArray, name: str, purpose: str) -> None:
    """Check that a column holds text, booleans, numbers, dates or times.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
    name : str
        Name of the column in messages.
    purpose : str
        What it was given for, in messages.

    Raises
    ------
    InputError
    """
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean, pa.types.is_null,
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal,
    )  # fmt: skip
    if not any(test(kind) for test in tests):
        raise InputError(
            f"{name} holds {kind}, which cannot be used for {purpose}: give a column of text, booleans, numbers, dates "
            "or times."
        )


def group_values(column: pa.ChunkedArray) -> ValueGroups:
    """Return the rows of a column by value; NaN is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if pa.types.is_null(column.type):
        return ValueGroups(np.full(len(column), -1), pa.nulls(0), np.zeros(0, np.int64))
    encoded = pc.dictionary_encode(column).unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # without chunks
        return ValueGroups(np.zeros(0, np.int64), pa.nulls(0), np.zeros(0, np.int64))
    # A dictionary that was there before may hold a value twice, null, or values of no row.
    dictionary = pc.dictionary_encode(encoded.dictionary)
    lookup = np.append(dictionary.indices.fill_null(-1).to_numpy(zero_copy_only=False), -1).astype(np.int64)
    # Polars has unsigned indices.
    codes = lookup[encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)]
    first_row = np.full(len(dictionary.dictionary) + 1, len(codes))
    first_row[codes[::-1]] = np.arange(len(codes))[::-1]
    order = np.argsort(first_row[:-1], kind="stable")
    order = order[first_row[order] < len(codes)]
    rank = np.full(len(first_row), -1)
    rank[order] = np.arange(len(order))
    codes = rank[codes]
    counts = np.bincount(codes[codes >= 0], minlength=len(order))
    return ValueGroups(codes, dictionary.dictionary.take(pa.array(order)), counts)


def finite_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return numbers as float64, with NaN for those that are missing or infinite."""
    import pyarrow as pa

    values = column.cast(pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def is_continuous(column: pa.ChunkedArray, max_categories: int) -> bool:
    """Return whether a column holds numbers to average, not names, booleans or a few different whole numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return False
    values = finite_numbers(column)
    values = values[~np.isnan(values)]
    if not values.size:
        return False
    if not bool((values == np.rint(values)).all()):
        return True
    return any(pc.count_distinct(pa.array(part)).as_py() > max_categories for part in (values[:_FIRST_ROWS], values))


def _as_text(values: pa.Array) -> list[str]:
    """Return values as text: dates and times without a fraction of zeros."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(values.type) or pa.types.is_time(values.type):
        values = pc.replace_substring_regex(values.cast(pa.string()), r"\.0+(Z|[+-]\d{2}:?\d{2})?$", r"\1")
    elif pa.types.is_duration(values.type):
        seconds = values.cast(pa.int64()).to_numpy() / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[values.type.unit]
        return [f"{value:g} s" for value in seconds]
    elif pa.types.is_date(values.type):
        values = values.cast(pa.string())
    return [str(value) for value in values.to_pylist()]
