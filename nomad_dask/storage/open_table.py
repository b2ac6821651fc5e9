"""`open_table`: a table in a file of any format."""

from __future__ import annotations

from pathlib import Path

from nomad_dask.errors import InputError
from nomad_dask.storage.arrow_files import ArrowFile
from nomad_dask.storage.csv_files import CsvFile
from nomad_dask.storage.parquet_files import ParquetFile
from nomad_dask.storage.table_files import TableFile, translate_damage
from nomad_dask.storage.table_formats import format_of_file


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
            table = ParquetFile(path, as_dictionaries)
        elif kind == "Arrow":
            table = ArrowFile(path)
        else:
            table = CsvFile(path)
        names = table.schema.names
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(f"{str(path)!r} has the column {duplicates[0]!r} twice: rename one of them.")
    return table
