"""Reads a map in batches of bounded size, column by column, and converts values to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_dask.errors import InputError, MissingInputError, suggest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Characters of a value that are shown and searched.
MAX_TEXT_LENGTH = 2000
_MAX_BATCH_ROWS = 1 << 18
_MAX_BATCH_BYTES = 32 << 20
_CODE_BYTES = 16
_MAX_MAP_ROWS = 2**32 - 1
_MAX_WHOLE_NUMBER = 1e15


class MapFile:
    """A map on disk, of any size. It stays open, so that every pass reads the same file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        It is not a Parquet file, or has no positions, no rows, or more than 4,294,967,295 rows.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        if not path.exists():
            raise MissingInputError(f"The map {str(path)!r} does not exist: use a file written by 'nomad-dask fit'.")
        try:
            # Without a buffer a whole row group is read at once, and a map may be a single row group.
            self._file = pq.ParquetFile(
                path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=_dictionary_columns(pq.read_metadata(path))
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{str(path)!r} cannot be read as Parquet ({error}): use a map.") from error
        self.schema: pa.Schema = self._file.schema_arrow
        self.n_rows: int = self._file.metadata.num_rows
        names = self.schema.names
        for axis in ("x", "y"):
            if axis not in names:
                raise InputError(f"{str(path)!r} has no column {axis!r}, so it is not a map. {suggest(axis, names)}")
            kind = self.schema.field(axis).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise InputError(f"The column {axis!r} of {str(path)!r} holds {kind}: positions must be numbers.")
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise InputError(f"{str(path)!r} has the column {duplicates[0]!r} twice: rename one of them.")
        if not self.n_rows:
            raise InputError(f"{str(path)!r} has no rows: use a map with points.")
        if self.n_rows > _MAX_MAP_ROWS:
            raise InputError(f"{str(path)!r} has {self.n_rows:,} rows: a site holds at most {_MAX_MAP_ROWS:,}.")

    def batches(self, columns: Sequence[str], max_bytes: int = _MAX_BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows in order, in batches of about `max_bytes` at most."""
        import pyarrow as pa

        max_rows = int(min(_MAX_BATCH_ROWS, max(1, max_bytes // self.bytes_per_row(columns))))
        try:
            yield from self._file.iter_batches(max_rows, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{str(self.path)!r} cannot be read ({error}): it may be damaged, create it again."
            ) from error

    def bytes_per_row(self, columns: Sequence[str]) -> float:
        """Return the mean bytes per row of some columns in the row group where it is largest, from the metadata."""
        metadata = self._file.metadata
        paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        # Nested columns have a path with dots, but so may names.
        leaves = [i for i, path in enumerate(paths) if path in columns or path.split(".")[0] in columns]
        largest = 1.0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            size = sum(group.column(i).total_uncompressed_size for i in leaves)
            largest = max(largest, size / max(1, group.num_rows))
        return largest


def _dictionary_columns(metadata: pq.FileMetaData) -> list[str]:
    """Return the columns stored as little more than dictionary codes, which may stand for values of any length."""
    names = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for leaf in map(group.column, range(group.num_columns)):
            short = leaf.total_uncompressed_size < _CODE_BYTES * leaf.num_values
            if leaf.physical_type == "BYTE_ARRAY" and leaf.has_dictionary_page and short:
                names.add(leaf.path_in_schema)
    return sorted(names)


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


def _numbers_as_text(array: pa.Array) -> pa.Array:
    """Return floating-point numbers as text: whole numbers in full, others with as few digits as identify them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    whole = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), _MAX_WHOLE_NUMBER))
    in_full = pc.if_else(whole, array, pa.scalar(0, array.type)).cast(pa.int64()).cast(pa.string())
    return pc.if_else(whole, in_full, array.cast(pa.string()))
