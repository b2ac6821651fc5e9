"""Reading a map in batches of bounded size, column by column, and values as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_dask.errors import InputError, MissingInputError, suggest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# What is shown of a value, and with it what a search can find.
LONGEST_TEXT = 2000
_MOST_ROWS = 1 << 18
_MOST_BYTES = 32 << 20
_CODE_BYTES = 16
_MOST_MAP_ROWS = 2**32 - 1
_MOST_DIGITS = 1e15


class MapFile:
    """A map on disk, of any size; it stays open, so that every pass reads the same file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    MissingInputError
        There is no such file.
    InputError
        It is no Parquet file, has no positions, no rows, or more than 4,294,967,295.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        if not path.exists():
            raise MissingInputError(f"There is no map {str(path)!r}: give a file that 'nomad-dask fit' made.")
        try:
            # Without a buffer a whole row group is read at once, and a map may consist of a single one.
            self._file = pq.ParquetFile(
                path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=_repeated(pq.read_metadata(path))
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{str(path)!r} cannot be read as Parquet ({error}): give a map.") from error
        self.schema: pa.Schema = self._file.schema_arrow
        self.n_rows: int = self._file.metadata.num_rows
        names = self.schema.names
        for axis in ("x", "y"):
            if axis not in names:
                raise InputError(f"{str(path)!r} has no column {axis!r}, so it is no map. {suggest(axis, names)}")
            kind = self.schema.field(axis).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise InputError(f"The column {axis!r} of {str(path)!r} holds {kind}: positions are numbers.")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{str(path)!r} has the column {twice[0]!r} twice: give each its own name.")
        if not self.n_rows:
            raise InputError(f"{str(path)!r} has no rows, so there is nothing to show: give a map with points.")
        if self.n_rows > _MOST_MAP_ROWS:
            raise InputError(f"{str(path)!r} has {self.n_rows:,} rows: a site holds at most {_MOST_MAP_ROWS:,}.")

    def batches(self, columns: Sequence[str], most_bytes: int = _MOST_BYTES) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows in order, in batches of about `most_bytes` at most."""
        import pyarrow as pa

        most_rows = int(min(_MOST_ROWS, max(1, most_bytes // self.bytes_a_row(columns))))
        try:
            yield from self._file.iter_batches(most_rows, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{str(self.path)!r} cannot be read ({error}): it may be damaged, make it anew."
            ) from error

    def bytes_a_row(self, columns: Sequence[str]) -> float:
        """Return the bytes of one row of some columns, as the file tells: the mean of the widest row group."""
        metadata = self._file.metadata
        paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        # Nested columns have a path; a name may have dots, too.
        leaves = [i for i, path in enumerate(paths) if path in columns or path.split(".")[0] in columns]
        widest = 1.0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            size = sum(group.column(i).total_uncompressed_size for i in leaves)
            widest = max(widest, size / max(1, group.num_rows))
        return widest


def _repeated(metadata: pq.FileMetaData) -> list[str]:
    """Return the columns of which the file holds little more than codes: nobody knows how long their values are."""
    found = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for leaf in map(group.column, range(group.num_columns)):
            short = leaf.total_uncompressed_size < _CODE_BYTES * leaf.num_values
            if leaf.physical_type == "BYTE_ARRAY" and leaf.has_dictionary_page and short:
                found.add(leaf.path_in_schema)
    return sorted(found)


def rows_of(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `rows` rows each; the last has what is left."""
    import pyarrow as pa

    held, count = [], 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(held)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        held, count = table.slice(whole).to_batches(), count - whole
    if count:
        yield pa.Table.from_batches(held)


def can_be_text(kind: pa.DataType) -> bool:
    """Return whether values of a type can be written for people."""
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
    """Return whether a type is text in itself."""
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


def as_text(array: pa.Array, longest: int = LONGEST_TEXT) -> pa.Array:
    """Return values as people write them; longer ones are cut and end in an ellipsis, nulls stay.

    Parameters
    ----------
    array : pyarrow.Array
        Of a type that `can_be_text`.
    longest : int
        Characters to keep.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_text(array.dictionary, longest).take(array.indices)
    if pa.types.is_floating(kind):
        array = _numbers_as_text(array)
    elif pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
    elif not is_words(kind):
        array = array.cast(pa.string())
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        array = pc.replace_substring_regex(array, r"\.0+(Z|[+-]\d{4})?$", r"\1")
    if pc.any(pc.greater(pc.utf8_length(array), longest)).as_py():
        cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(array, 0, longest), "…", "")
        array = pc.if_else(pc.greater(pc.utf8_length(array), longest), cut.cast(array.type), array)
    return array.cast(pa.string())


def _numbers_as_text(array: pa.Array) -> pa.Array:
    """Write floating-point numbers: whole ones in full, others with the fewest digits that tell them apart."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    whole = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), _MOST_DIGITS))
    in_full = pc.if_else(whole, array, pa.scalar(0, array.type)).cast(pa.int64()).cast(pa.string())
    return pc.if_else(whole, in_full, array.cast(pa.string()))
