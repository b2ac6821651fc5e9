"""Tables in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_dask.storage.table_files import MAX_BATCH_ROWS, TableFile, open_binary
from nomad_dask.storage.table_formats import Format

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CODE_BYTES = 16
_BUFFER_BYTES = 1 << 20


class ParquetFile(TableFile):
    """A Parquet file."""

    format: Format = "Parquet"

    def __init__(self, path: Path, as_dictionaries: bool) -> None:
        self.path = path
        self._file = _open(path)
        if as_dictionaries:
            self._file = _open(path, _dictionary_columns(self._file))
        self.schema = self._file.schema_arrow
        self.n_rows = self._file.metadata.num_rows

    def _batches(self, columns: Sequence[str], max_bytes: int) -> Iterator[pa.RecordBatch]:
        max_rows = int(min(MAX_BATCH_ROWS, max(1, max_bytes // self._bytes_per_row())))
        yield from self._file.iter_batches(max_rows, columns=list(columns))

    def _bytes_per_row(self) -> float:
        """Return the mean bytes per row, of all columns, in the row group where it is largest."""
        metadata = self._file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        means = (float(group.total_byte_size / max(1, group.num_rows)) for group in groups)
        return max([1.0, *means])


def _open(path: Path, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    # Without a buffer a whole row group is read at once, and a table may be a single row group.
    return pq.ParquetFile(
        open_binary(path), buffer_size=_BUFFER_BYTES, pre_buffer=False, read_dictionary=list(dictionaries)
    )


def _dictionary_columns(file: pq.ParquetFile) -> list[str]:
    """Return the columns of text stored as little more than dictionary codes, which may stand for values of any length.

    Columns within others are left out: pyarrow reads no dictionaries there.
    """
    columns = map(file.schema.column, range(len(file.schema)))
    leaves = {i: c.path for i, c in enumerate(columns) if c.physical_type == "BYTE_ARRAY" and c.path == c.name}
    found = set()
    for number in range(file.num_row_groups) if leaves else ():
        # pyarrow reports a damaged chunk when it reads a row of it, but ends the process when it shows its metadata.
        next(file.iter_batches(1, [number], columns=list(leaves.values())), None)
        group = file.metadata.row_group(number)
        for chunk in map(group.column, leaves):
            if chunk.has_dictionary_page and chunk.total_uncompressed_size < _CODE_BYTES * chunk.num_values:
                found.add(chunk.path_in_schema)
    return sorted(found)
