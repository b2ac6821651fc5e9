"""From a map to a site: a folder of static files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.callbacks.events import Emit, ignore_event
from nomad_dask.errors import InputError
from nomad_dask.site.assets import write_page
from nomad_dask.site.atomic_folder import check_folder, staged_folder
from nomad_dask.site.chunk_writer import ChunkWriter
from nomad_dask.site.columns import ColumnNames, ExportColumns
from nomad_dask.site.export_stages import ExportStages
from nomad_dask.site.map_reader import MapFile
from nomad_dask.site.quantize import MIN_BITS, Extent
from nomad_dask.site.search_index import MAX_ROWS
from nomad_dask.site.tokenizer import MAX_WORD_LENGTH
from nomad_dask.storage.output_paths import Target, check_targets, output_path

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
TILE_ROWS = 16_384
_TILE_ROWS_RANGE = (1, 1 << 17)
# Up to this number of rows the tree is built in memory.
_MEMORY_ROWS = 2_000_000


@dataclass(frozen=True)
class Site:
    """A site that was written.

    Attributes
    ----------
    path : Path
    rows, tiles, levels : int
    files, bytes, largest_part : int
        Number of files, their bytes, and the bytes of the largest file that a page loads at once.
    seconds : dict of str to float
        Duration of each stage.
    """

    path: Path
    rows: int
    tiles: int
    levels: int
    files: int
    bytes: int
    largest_part: int
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as values that JSON has."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class _Contents:
    """The data of a site that were written, before the file that describes them."""

    n_rows: int
    tile_rows: int
    extent: Extent
    columns: ExportColumns
    index: pa.Table
    overview: list[dict[str, Any]]
    text_rows: int
    n_search_chunks: int

    @property
    def n_levels(self) -> int:
        return int(self.index.column("z")[-1].as_py()) + 1

    def describe(self, title: str) -> dict[str, Any]:
        """Return the content of ``site.js``."""
        search: dict[str, Any] | None = None
        if self.columns.search:
            search = {
                "columns": list(self.columns.search),
                "parts": self.n_search_chunks,
                "most_rows": MAX_ROWS,
                "longest_word": MAX_WORD_LENGTH,
            }
        return {
            "version": VERSION,
            "title": title,
            "n": self.n_rows,
            "extent": self.extent.as_list(),
            "tile_rows": self.tile_rows,
            "steps": 1 << MIN_BITS,
            "depth": self.n_levels,
            "columns": [column.as_dict() for column in self.columns.columns],
            "hover": list(self.columns.hover),
            "text_rows": self.text_rows,
            "search": search,
            "overview": self.overview,
            "tiles": "index",
        }


def export(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    color: Sequence[str] | None = None,
    hover: Sequence[str] | None = None,
    search: Sequence[str] | None = None,
    title: str | None = None,
    tile_rows: int = TILE_ROWS,
    overwrite: bool = False,
    axes: Sequence[str] | None = None,
    emit: Emit = ignore_event,
    memory_rows: int = _MEMORY_ROWS,
) -> Site:
    """Write a map as a site: a folder of static files that a browser shows, from disk or from any web server.

    The same map and options produce the same files. The folder has its name only when it is complete, so there is
    either a whole site under `output` or none.

    Parameters
    ----------
    path : path-like
        A map, or any Parquet, Arrow (Feather) or CSV file with the columns ``x`` and ``y``.
    output : path-like
        The folder; created if it does not exist, otherwise it must be empty.
    color, hover, search : sequence of str, optional
        Columns to color by, to show beside a point, and those of them to search. By default all columns that are
        suitable: numbers, booleans and text with few different values; all columns; all text.
    title : str, optional
        Title of the page; by default the name of the file.
    tile_rows : int
        Number of points that the page loads at once, from 1 to 131,072.
    overwrite : bool
        Replace an existing site.
    axes : sequence of str, optional
        The two axes to show of a map in three dimensions, such as ``("x", "z")``; the third is a column as others. By
        default ``x`` and ``y``, with a warning.
    emit : callable
        Receives the events of the stages.
    memory_rows : int
        Maximum number of rows in memory, about 60 bytes each.

    Returns
    -------
    Site

    Raises
    ------
    MissingInputError
        The map does not exist.
    InputError
        The map, a column or the folder cannot be used.
    ResourceError
        The disk has not enough space.
    """
    _check_tile_rows(tile_rows)
    _require_pillow()
    folder_path = output_path(output, "site")
    check_folder(folder_path, overwrite)
    check_targets([Target("site", folder_path, is_directory=True)], [os.fspath(path)])
    file = MapFile(Path(path), axes)
    with staged_folder(folder_path, overwrite) as (folder, scratch):
        writer = ChunkWriter(folder)
        stages = ExportStages(file, writer, scratch, emit, memory_rows)
        contents = _write_contents(stages, ColumnNames(color, hover, search), tile_rows)
        _write_frame(writer, contents, Path(path).stem if title is None else title)
    return _summarize(folder_path, file.n_rows, contents, writer, stages.seconds)


def _summarize(path: Path, n_rows: int, contents: _Contents, writer: ChunkWriter, seconds: dict[str, float]) -> Site:
    return Site(
        path=path,
        rows=n_rows,
        tiles=contents.index.num_rows,
        levels=contents.n_levels,
        files=writer.files,
        bytes=writer.size,
        largest_part=writer.largest,
        seconds=seconds,
    )


def _check_tile_rows(tile_rows: int) -> None:
    low, high = _TILE_ROWS_RANGE
    if not isinstance(tile_rows, int) or not low <= tile_rows <= high:
        raise InputError(f"tile_rows={tile_rows} is out of range: use a whole number from {low} to {high:,}.")


def _write_frame(writer: ChunkWriter, contents: _Contents, title: str) -> None:
    """Write the index of the tiles, the page, and at last the description, which makes the folder a site."""
    writer.write_table("index", contents.index)
    write_page(writer)
    text = json.dumps(contents.describe(title), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    writer.write("site", text.encode("utf-8", "replace"))


def _write_contents(stages: ExportStages, names: ColumnNames, tile_rows: int) -> _Contents:
    """Run the stages.

    Raises
    ------
    InputError
        The map has values that cannot be shown.
    """
    import pyarrow as pa

    try:
        extent = stages.find_extent()
        columns = stages.select_columns(names)
        index, counts = stages.write_tiles(extent, columns, tile_rows)
        overview = stages.write_overviews(counts)
        text_rows, n_search_chunks = stages.write_texts(columns)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(
            f"{str(stages.file.path)!r} has values that cannot be shown ({error}): create the file again."
        ) from error
    return _Contents(stages.file.n_rows, tile_rows, extent, columns, index, overview, text_rows, n_search_chunks)


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"A site needs Pillow, which cannot be imported ({error}): pip install 'nomad-dask[plot]'."
        ) from error
