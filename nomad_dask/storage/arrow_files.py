"""Tables in Arrow files, also called Feather."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_dask.storage.table_files import TableFile, slices
from nomad_dask.storage.table_formats import Format

if TYPE_CHECKING:
    import pyarrow as pa


class ArrowFile(TableFile):
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
            yield reader.get_batch(number)


def _width(kind: pa.DataType) -> int:
    """Return the bits of a value of a type; a large number if they vary."""
    try:
        return int(kind.bit_width)
    except ValueError:
        return 1 << 30
