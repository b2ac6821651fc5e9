"""The files of the page itself, which come with this package."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from nomad_dask.site.chunk_writer import Parts


def write_page(parts: Parts) -> None:
    """Copy the page into a site."""
    _copy(files("nomad_dask.site") / "web", "", parts)


def _copy(folder: Traversable, under: str, parts: Parts) -> None:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            _copy(entry, f"{under}{entry.name}/", parts)
        else:
            parts.write_file(under + entry.name, entry.read_bytes())
