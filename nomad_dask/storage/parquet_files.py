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
        max_rows = int(min(MAX_BATCH_ROWS, max(1, max_bytes // self._bytes_per_row(columns))))
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
