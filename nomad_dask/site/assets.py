"""The files of the page itself, which are part of this package."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from nomad_dask.site.chunk_writer import ChunkWriter


def write_page(writer: ChunkWriter) -> None:
    """Copy the files of the page into a site."""
    _copy(files("nomad_dask.site") / "web", "", writer)


def _copy(folder: Traversable, prefix: str, writer: ChunkWriter) -> None:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            _copy(entry, f"{prefix}{entry.name}/", writer)
        else:
            writer.write_file(prefix + entry.name, entry.read_bytes())
