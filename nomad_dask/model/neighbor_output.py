"""Neighbors written to a file, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nomad_dask.errors import InputError
from nomad_dask.model.neighbor_tables import Part, neighbor_tables, table_schema
from nomad_dask.pipeline.outputs import check_table_output
from nomad_dask.storage.table_formats import format_to_write
from nomad_dask.storage.table_writer import table_writer


def check_neighbor_output(path: Path, form: str, read: Sequence[str], overwrite: bool) -> None:
    """Refuse, before any work, a file that cannot be written or would damage what is read.

    Parameters
    ----------
    path : Path
    form : str
        See `neighbor_tables`.
    read : sequence of str
        Files and directories that are read.
    overwrite : bool
        Accept a file that exists.

    Raises
    ------
    InputError
    """
    if format_to_write(path) == "CSV" and form != "edges":
        raise InputError(
            f"The output {str(path)!r} is a CSV file, which cannot hold the lists of the form {form!r}: give a name "
            "ending in .parquet, .feather or .arrow, or write the form 'edges'."
        )
    check_table_output(path, read, overwrite)


def write_neighbor_tables(path: Path, form: str, k: int, parts: Iterable[Part]) -> None:
    """Write the tables of `neighbor_tables` to a file, which has its name only when it is complete."""
    with table_writer(path, format_to_write(path), table_schema(form, k)) as write:
        for table in neighbor_tables(parts, form):
            write(table)
