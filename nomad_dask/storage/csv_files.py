"""Tables in CSV files, whose types are found in a first pass over all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.storage.table_files import TableFile, open_binary, slices
from nomad_dask.storage.table_formats import Format

if TYPE_CHECKING:
    import pyarrow as pa

# A row must fit in a block.
_BLOCK_BYTES = 16 << 20


class CsvFile(TableFile):
    """A CSV file in UTF-8 with commas and a header, as pandas and Arrow write it.

    An empty field is null, and ``""`` an empty text. A column is of whole numbers, numbers or booleans if all its
    values are, and otherwise of text. Numbers that would lose digits, such as ``007``, are text.
    """

    format: Format = "CSV"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        with self._open(None) as reader:
            names = reader.schema.names
        self.schema = pa.schema([(name, pa.string()) for name in names])
        if len(set(names)) < len(names):
            return  # refused by `open_table`
        candidates = {
            name: [pa.null(), pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.string()] for name in names
        }
        self.n_rows = 0
        for batch in self._text(names):
            self.n_rows += batch.num_rows
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                while not _can_be(column, candidates[name][0]):
                    candidates[name].pop(0)
        self.schema = pa.schema([(name, kinds[0]) for name, kinds in candidates.items()])

    def _open(self, columns: Sequence[str] | None) -> Any:
        import pyarrow as pa
        import pyarrow.csv

        convert: dict[str, Any] = {}
        if columns is not None:
            convert = {"include_columns": list(columns), "column_types": dict.fromkeys(columns, pa.string())}
        return pa.csv.open_csv(
            open_binary(self.path),
            read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, **convert
            ),
        )

    def _text(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns as they are written."""
        with self._open(columns) as reader:
            yield from reader

    def _batches(self, columns: Sequence[str], max_bytes: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        schema = pa.schema([self.schema.field(name) for name in columns])
        for batch in self._text(columns):
            arrays = [
                pa.nulls(len(column)) if pa.types.is_null(field.type) else column.cast(field.type)
                for column, field in zip(batch.columns, schema, strict=True)
            ]
            yield from slices(pa.record_batch(arrays, schema=schema), max_bytes)


def _can_be(text: pa.Array, kind: pa.DataType) -> bool:
    """Return whether all values can be of a type without loss."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(kind):
        return bool(text.null_count == len(text))
    if pa.types.is_string(kind):
        return True
    try:
        values = text.cast(kind)
    except pa.ArrowInvalid:
        return False
    if pa.types.is_integer(kind):
        return pc.all(pc.equal(values.cast(pa.string()), text)).as_py() is not False
    # Digits that a float does not hold, and zeros that only a name begins with.
    lossy = pc.match_substring_regex(text, r"^[+-]?(0\d|\d{17,}$)")
    return pc.any(lossy).as_py() is not True
