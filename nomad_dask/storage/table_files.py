"""Tables in files of any size, read in batches of bounded size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.errors import InputError, NomadError
from nomad_dask.storage.table_formats import Format

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BATCH_ROWS = 1 << 18
MAX_BATCH_BYTES = 32 << 20


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
                selected = batch.select(list(columns))
                # Arrow trusts offsets and text that it reads; damaged ones would end the process later.
                selected.validate(full=True)
                yield selected

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
    rows = int(min(MAX_BATCH_ROWS, max(1, max_bytes // per_row)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
