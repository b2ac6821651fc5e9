"""Tables written to Parquet, Arrow and CSV files, atomically and block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.errors import InputError
from nomad_dask.storage.atomic import atomic_write
from nomad_dask.storage.table_formats import Format

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def table_writer(path: Path, kind: Format, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends a table to a new file, which has its name only when it is complete.

    Parameters
    ----------
    path : Path
    kind : {'Parquet', 'Arrow', 'CSV'}
    schema : pyarrow.Schema
        Of all tables, with the metadata to write; CSV has none. The format must hold its types, see `check_writable`.
    """
    with atomic_write(path) as partial, partial.open("wb") as file, _writer(kind, file, schema) as write:
        yield _checked(path, write)


def _checked(path: Path, write: Callable[[pa.Table], None]) -> Callable[[pa.Table], None]:
    """Return a function that writes, and names the file if it cannot hold a value, such as a time too far away."""
    import pyarrow as pa

    def checked(table: pa.Table) -> None:
        try:
            write(table)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{str(path)!r} cannot hold a value of the columns to keep ({error}): leave that column out, or write "
                "a file in another format."
            ) from error

    return checked


def check_writable(kind: Format, schema: pa.Schema) -> None:
    """Check that a format can hold columns, by writing a table without rows to memory.

    Raises
    ------
    InputError
        It cannot hold a column.
    """
    import pyarrow as pa

    for field in schema:
        part = pa.schema([field])
        try:
            with _writer(kind, pa.BufferOutputStream(), part) as write:
                write(part.empty_table())
        except (pa.ArrowException, OSError, ValueError) as error:
            others = "" if kind == "Parquet" else ", or write a Parquet file"
            raise InputError(
                f"The column {field.name!r} holds {field.type}, which a file in the format {kind} cannot hold "
                f"({error}): leave it out of the columns to keep{others}."
            ) from error


@contextmanager
def _writer(kind: Format, file: Any, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    import pyarrow as pa

    if kind == "Parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            yield writer.write_table
        return
    # An Arrow file has one dictionary for all blocks, and CSV has none.
    plain = pa.schema([pa.field(f.name, _plain(f.type, kind)) for f in schema], schema.metadata)

    if kind == "Arrow":
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, plain, options=options) as out:
            yield lambda table: out.write_table(table.cast(plain))
    else:
        import pyarrow.csv

        with pa.csv.CSVWriter(file, plain) as out:
            yield lambda table: out.write_table(table.cast(plain))


def _plain(kind: pa.DataType, written_as: Format) -> pa.DataType:
    """Return the type that a column has in an Arrow or CSV file."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type, written_as)
    if written_as == "CSV" and pa.types.is_string_view(kind):
        return pa.string()
    if written_as == "CSV" and pa.types.is_float16(kind):
        return pa.float32()
    if written_as == "CSV" and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise pa.ArrowNotImplementedError("CSV holds text and numbers, not bytes")
    return kind
