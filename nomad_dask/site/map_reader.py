"""Reads a map in batches of bounded size, column by column, and converts values to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.storage.open_table import open_table
from nomad_dask.storage.table_files import MAX_BATCH_BYTES
from nomad_dask.utils.positions import plane_axes, position_columns

if TYPE_CHECKING:
    import pyarrow as pa

# Characters of a value that are shown and searched.
MAX_TEXT_LENGTH = 2000
_MAX_MAP_ROWS = 2**32 - 1
_MAX_WHOLE_NUMBER = 1e15


class MapFile:
    """A map on disk, of any size. It stays open, so that every pass reads the same file.

    Parameters
    ----------
    path : Path
        A Parquet, Arrow or CSV file.
    axes : sequence of str, optional
        The two axes to show, as in `plane_axes`.

    Attributes
    ----------
    path : Path
    schema : pyarrow.Schema
    n_rows : int
    axes : tuple of str
        The columns of the positions: to the right and upward.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        It cannot be read, or has no positions, no rows, or more than 4,294,967,295 rows.
    """

    def __init__(self, path: Path, axes: Sequence[str] | None = None) -> None:
        self.path = path
        self._file = open_table(path, as_dictionaries=True)
        self.schema: pa.Schema = self._file.schema
        self.n_rows = self._file.n_rows
        self.axes = plane_axes(axes, len(position_columns(self.schema, repr(str(path)))))
        if not self.n_rows:
            raise InputError(f"{str(path)!r} has no rows: use a map with points.")
        if self.n_rows > _MAX_MAP_ROWS:
            raise InputError(f"{str(path)!r} has {self.n_rows:,} rows: a site holds at most {_MAX_MAP_ROWS:,}.")

    def batches(self, columns: Sequence[str], max_bytes: int = MAX_BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows in order, in batches of about `max_bytes` at most."""
        return self._file.batches(columns, max_bytes)


def rebatch(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `rows` rows each; the last table may have fewer."""
    import pyarrow as pa

    pending, count = [], 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(pending)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        pending, count = table.slice(whole).to_batches(), count - whole
    if count:
        yield pa.Table.from_batches(pending)


def can_be_text(kind: pa.DataType) -> bool:
    """Return whether values of a type can be shown as text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return can_be_text(kind.value_type)
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean,
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date, pa.types.is_time,
        pa.types.is_timestamp, pa.types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def is_words(kind: pa.DataType) -> bool:
    """Return whether a type is text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_words(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is a number."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_number(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_text(array: pa.Array, max_length: int = MAX_TEXT_LENGTH) -> pa.Array:
    """Return values as text for people. Long texts are cut and end in an ellipsis, nulls stay null.

    Parameters
    ----------
    array : pyarrow.Array
        Values of a type for which `can_be_text` is true.
    max_length : int
        Maximum number of characters.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_text(array.dictionary, max_length).take(array.indices)
    if pa.types.is_floating(kind):
        array = _numbers_as_text(array)
    elif pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
    elif not is_words(kind):
        array = array.cast(pa.string())
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        array = pc.replace_substring_regex(array, r"\.0+(Z|[+-]\d{4})?$", r"\1")
    if pc.any(pc.greater(pc.utf8_length(array), max_length)).as_py():
        cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(array, 0, max_length), "…", "")
        array = pc.if_else(pc.greater(pc.utf8_length(array), max_length), cut.cast(array.type), array)
    return array.cast(pa.string())


def as_numbers(array: pa.Array) -> np.ndarray:
    """Return numbers of any type as float64, with NaN for nulls."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _numbers_as_text(array: pa.Array) -> pa.Array:
    """Return floating-point numbers as text: whole numbers in full, others with as few digits as identify them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    whole = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), _MAX_WHOLE_NUMBER))
    in_full = pc.if_else(whole, array, pa.scalar(0, array.type)).cast(pa.int64()).cast(pa.string())
    return pc.if_else(whole, in_full, array.cast(pa.string()))
