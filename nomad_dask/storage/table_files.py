"""Tables in Parquet, Arrow and CSV files of any size, read in batches of bounded size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.errors import InputError, NomadError
from nomad_dask.storage.table_formats import Format, format_of_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_MAX_BATCH_ROWS = 1 << 18
MAX_BATCH_BYTES = 32 << 20
_CODE_BYTES = 16
_BUFFER_BYTES = 1 << 20


class TableFile(ABC):
    """A table in a file that stays open, so that every pass reads the same file.

    Attributes
    ----------
    path : Path
    schema : pyarrow.Schema
        Names are unique.
    n_rows : int
    """

    format: Format
    path: Path
    schema: pa.Schema
    n_rows: int

    @abstractmethod
    def _batches(self, columns: Sequence[str], max_bytes: int) -> Iterator[pa.RecordBatch]:
        """Yield the columns of all rows, in any order of the columns."""

    def batches(self, columns: Sequence[str], max_bytes: int = MAX_BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows in order, in batches of about `max_bytes` at most.

        Raises
        ------
        InputError
            The file is damaged.
        """
        with translate_damage(self.path, self.format, "it may be damaged, create it again"):
            for batch in self._batches(columns, max_bytes):
                yield batch.select(list(columns))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows.

        Raises
        ------
        InputError
            The file is damaged.
        """
        import pyarrow as pa

        schema = pa.schema([self.schema.field(name) for name in columns], self.schema.metadata)
        return pa.Table.from_batches([b.cast(schema) for b in self.batches(columns)], schema)


def open_table(path: Path, what: str = "map", as_dictionaries: bool = False) -> TableFile:
    """Open a table.

    Parameters
    ----------
    path : Path
    what : str
        What the file should be, for messages.
    as_dictionaries : bool
        Read text that a Parquet file stores as little more than codes as Arrow dictionaries, so that batches of bounded
        size in the file are bounded in memory.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        It is not a regular file, not in a known format, or has two columns of one name.
    """
    kind = format_of_file(path, what)
    with translate_damage(path, kind, f"give a {what}"):
        table: TableFile
        if kind == "Parquet":
            table = _ParquetFile(path, as_dictionaries)
        elif kind == "Arrow":
            table = _ArrowFile(path)
        else:
            from nomad_dask.storage.csv_files import CsvFile

            table = CsvFile(path)
        names = table.schema.names
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(f"{str(path)!r} has the column {duplicates[0]!r} twice: rename one of them.")
    return table


@contextmanager
def translate_damage(path: Path, kind: Format, advice: str) -> Iterator[None]:
    """Raise an `InputError` in place of what pyarrow raises for content that it cannot read."""
    import pyarrow as pa

    try:
        yield
    except NomadError:
        raise
    # Damaged sizes and names raise errors of any of these kinds.
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
        raise InputError(f"{str(path)!r} cannot be read as {kind} ({error}): {advice}.") from error


def open_binary(path: Path) -> Any:
    """Return a path as pyarrow opens it best; names that are not UTF-8 need a Python file."""
    try:
        return str(path).encode("utf-8").decode()
    except UnicodeEncodeError:
        return path.open("rb")


def slices(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in slices of about `max_bytes` at most."""
    per_row = max(1.0, batch.nbytes / max(1, batch.num_rows))
    rows = int(min(_MAX_BATCH_ROWS, max(1, max_bytes // per_row)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class _ParquetFile(TableFile):
    """A Parquet file."""

    format: Format = "Parquet"

    def __init__(self, path: Path, as_dictionaries: bool) -> None:
        import pyarrow.parquet as pq

        self.path = path
        metadata = pq.read_metadata(open_binary(path))
        # Without a buffer a whole row group is read at once, and a table may be a single row group.
        self._file = pq.ParquetFile(
            open_binary(path),
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            read_dictionary=_dictionary_columns(metadata) if as_dictionaries else None,
        )
        self.schema = self._file.schema_arrow
        self.n_rows = self._file.metadata.num_rows

    def _batches(self, columns: Sequence[str], max_bytes: int) -> Iterator[pa.RecordBatch]:
        max_rows = int(min(_MAX_BATCH_ROWS, max(1, max_bytes // self._bytes_per_row(columns))))
        yield from self._file.iter_batches(max_rows, columns=list(columns))

    def _bytes_per_row(self, columns: Sequence[str]) -> float:
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


class _ArrowFile(TableFile):
    """An Arrow file, also called Feather."""

    format: Format = "Arrow"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self._source = pa.PythonFile(path.open("rb"))
        self.schema = pa.ipc.open_file(self._source).schema
        # The number of rows is that of any column.
        widths = [_width(field.type) for field in self.schema]
        self.n_rows = sum(b.num_rows for b in self._read([widths.index(min(widths))])) if widths else 0

    def _batches(self, columns: Sequence[str], max_bytes: int) -> Iterator[pa.RecordBatch]:
        for batch in self._read(sorted(self.schema.get_field_index(name) for name in columns)):
            yield from slices(batch, max_bytes)

    def _read(self, fields: list[int]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=fields)
        reader = pa.ipc.open_file(self._source, options=options)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            # Arrow trusts offsets, and damaged ones would end the process.
            batch.validate(full=True)
            yield batch


def _width(kind: pa.DataType) -> int:
    """Return the bits of a value of a type; a large number if they vary."""
    try:
        return int(kind.bit_width)
    except ValueError:
        return 1 << 30
