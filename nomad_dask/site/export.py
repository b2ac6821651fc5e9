"""From a map to a site: a few passes over the file, none of which holds it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.callbacks.events import Emit, StageAdvanced, StageFinished, StageStarted
from nomad_dask.errors import InputError, ResourceError
from nomad_dask.site.assets import write_page
from nomad_dask.site.atomic_folder import staged_folder
from nomad_dask.site.chunk_writer import Parts
from nomad_dask.site.columns import Column, ExportColumns, choose
from nomad_dask.site.map_reader import MapFile
from nomad_dask.site.overview import SIZES, Counts
from nomad_dask.site.quadtree import Quad, RowStream, Tile, row_type, tiles
from nomad_dask.site.quantize import INNER_BITS, LEAST_BITS, Extent, extent_of, inner_bits
from nomad_dask.site.row_text import rows_of_a_part, texts, write_texts
from nomad_dask.site.search_index import MOST_ROWS, Index
from nomad_dask.site.tokenizer import LONGEST_WORD

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
TILE_ROWS = 16_384
_TILE_ROWS_RANGE = (1, 1 << 17)
# Rows of a part of the tree that is made in memory.
_MEMORY_ROWS = 2_000_000


@dataclass(frozen=True)
class Site:
    """A site that was written.

    Attributes
    ----------
    path : Path
    rows, tiles, levels : int
    files, bytes, largest_part : int
        Files, their bytes, and the bytes of the largest that a page loads at once.
    seconds : dict of str to float
        By stage.
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
        """Return plain values."""
        return asdict(self) | {"path": str(self.path)}


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
    emit: Emit = lambda event: None,
    memory_rows: int = _MEMORY_ROWS,
) -> Site:
    """Write a map as a site: a folder of static files that a browser shows, from disk or from any web server.

    The same map and the same options give the same files. What is not finished has another name, so there is
    a whole site under `output` or none.

    Parameters
    ----------
    path : path-like
        A map, or any Parquet file with the columns ``x`` and ``y``.
    output : path-like
        The folder; made, or empty.
    color, hover, search : sequence of str, optional
        Columns to colour by, to show beside a point, and those of them to search. By default all that make
        sense: numbers, booleans and text of few different values; all columns; all text.
    title : str, optional
        The name of the file by default.
    tile_rows : int
        Points that are loaded at once, from 1 to 131,072.
    overwrite : bool
        Replace a site that is there.
    emit : callable
        Told how far it is.
    memory_rows : int
        Rows to hold in memory, about 60 bytes each.

    Returns
    -------
    Site

    Raises
    ------
    MissingInputError
        There is no such map.
    InputError
        The map, a column or the folder cannot be used.
    ResourceError
        The disk has no room.
    """
    import pyarrow as pa

    low, high = _TILE_ROWS_RANGE
    if not low <= tile_rows <= high:
        raise InputError(f"tile_rows={tile_rows} is out of range: give a whole number from {low} to {high:,}.")
    _require_pillow()
    file = MapFile(Path(path))
    seconds: dict[str, float] = {}
    with staged_folder(Path(output), overwrite) as (folder, scratch):
        try:
            parts = Parts(folder)
            work = _Work(file, parts, scratch, emit, seconds)
            extent = work.extent()
            shown = work.choose(color, hover, search)
            _check_room(folder, file.n_rows, shown, memory_rows)
            index, counts = work.tiles(extent, shown, tile_rows, memory_rows)
            overview = work.pictures(counts)
            text_rows, n_search = work.texts(shown)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise InputError(f"{str(file.path)!r} holds what cannot be shown ({error}): make it anew.") from error
        about: dict[str, Any] = {
            "version": VERSION,
            "title": Path(path).stem if title is None else title,
            "n": file.n_rows,
            "extent": extent.as_list(),
            "tile_rows": tile_rows,
            "steps": 1 << LEAST_BITS,
            "depth": int(index.column("z")[-1].as_py()) + 1,
            "columns": [column.as_dict() for column in shown.columns],
            "hover": list(shown.hover),
            "text_rows": text_rows,
            "search": None
            if not shown.search
            else {
                "columns": list(shown.search),
                "parts": n_search,
                "most_rows": MOST_ROWS,
                "longest_word": LONGEST_WORD,
            },
            "overview": overview,
            "tiles": "index",
        }
        parts.write_table("index", index)
        write_page(parts)
        # Last: it is what makes the folder a site.
        told = json.dumps(about, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        parts.write("site", told.encode("utf-8", "replace"))
    return Site(
        Path(output), file.n_rows, index.num_rows, about["depth"], parts.files, parts.size, parts.largest, seconds
    )


def _check_room(folder: Path, n: int, shown: ExportColumns, memory_rows: int) -> None:
    """Refuse a disk that cannot hold the tiles, and the files on the way to them; what text takes is not known.

    Raises
    ------
    ResourceError
    """
    colors = sum(column.dtype.itemsize for column in shown.in_tiles)
    row, on_the_way = 8 + colors, row_type([]).itemsize + colors
    needed = n * row * 4 // 3 + (n * on_the_way if n > memory_rows else 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"The points of the site take {needed:,} bytes of disk, and {free:,} are free: free some, write it to a "
            "larger disk, or colour by fewer columns."
        )


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"A site has pictures by Pillow, which cannot be imported ({error}): pip install 'nomad-dask[plot]'."
        ) from error


@dataclass(frozen=True)
class _Work:
    """One export: its stages in order."""

    file: MapFile
    parts: Parts
    scratch: Path
    emit: Emit
    seconds: dict[str, float]

    @contextmanager
    def _stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.emit(StageStarted(name, total, unit))
        began = time.monotonic()
        yield lambda done: self.emit(StageAdvanced(name, done))
        self.seconds[name] = round(time.monotonic() - began, 3)
        self.emit(StageFinished(name, self.seconds[name]))

    def extent(self) -> Extent:
        with self._stage("extent", self.file.n_rows, "rows") as advance:
            return extent_of(self.file, advance)

    def choose(
        self, color: Sequence[str] | None, hover: Sequence[str] | None, search: Sequence[str] | None
    ) -> ExportColumns:
        with self._stage("columns", len(self.file.schema.names), "columns") as advance:
            return choose(self.file, color, hover, search, advance)

    def tiles(self, extent: Extent, shown: ExportColumns, tile_rows: int, memory_rows: int) -> tuple[pa.Table, Counts]:
        """Write the tiles; return their index, and how many points lie where."""
        import pyarrow as pa

        counts, made = Counts(), []
        dtype = row_type([(f"c.{i}", column.dtype) for i, column in enumerate(shown.in_tiles)])
        with self._stage("tiles", 2 * self.file.n_rows, "rows") as advance:

            def read() -> Iterator[np.ndarray]:
                done = 0
                for rows in _rows(self.file, extent, shown.in_tiles, dtype):
                    counts.add(rows["x"], rows["y"])
                    yield rows
                    done += len(rows)
                    advance(done)

            done = self.file.n_rows
            for tile in tiles(
                RowStream(self.file.n_rows, dtype, read), Quad(0, 0, 0), tile_rows, self.scratch, memory_rows
            ):
                _write_tile(self.parts, tile, shown.in_tiles)
                made.append((*tile.quad, tile.n))
                done += tile.n
                advance(done)
        made.sort()
        names = (("z", np.uint8), ("x", np.uint32), ("y", np.uint32), ("n", np.uint32))
        columns = zip(names, np.array(made, np.int64).T, strict=True)
        return pa.table({name: values.astype(kind) for (name, kind), values in columns}), counts

    def pictures(self, counts: Counts) -> list[dict[str, Any]]:
        """Write the pictures of all points; return their list."""
        made: list[dict[str, Any]] = []
        with self._stage("pictures", len(SIZES), "pictures") as advance:
            for size in SIZES:
                made.append({"name": f"overview/{len(made)}.png", "pixels": size})
                self.parts.write_file(made[-1]["name"], counts.picture(size))
                advance(len(made))
        return made

    def texts(self, shown: ExportColumns) -> tuple[int, int]:
        """Write the text parts and the search index; return the rows of the one and the number of the others."""
        batches = texts(self.file, shown.hover)
        first = next(batches)
        part_rows = rows_of_a_part(first)
        with Index(self.scratch) as index:

            def read() -> Iterator[pa.RecordBatch]:
                done = 0
                for batch in chain([first], batches):
                    if shown.search:
                        # The place of a row comes first; a column of text may be called as it is.
                        index.add(done, [batch.column(2 + shown.hover.index(name)) for name in shown.search])
                    yield batch
                    done += batch.num_rows

            with self._stage("text", self.file.n_rows, "rows") as advance:
                write_texts(self.parts, read(), part_rows, advance)
            if not shown.search:
                return part_rows, 0
            with self._stage("search", 256, "files") as advance:
                return part_rows, index.write(self.parts, advance)


def _rows(file: MapFile, extent: Extent, columns: Sequence[Column], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """Yield the rows of a map as the tree takes them."""
    start = 0
    for batch in file.batches(["x", "y", *(c.name for c in columns if c.name not in ("x", "y"))]):
        rows = np.empty(batch.num_rows, dtype)
        rows["row"] = np.arange(start, start + batch.num_rows)
        rows["x"] = extent.grid(batch.column("x").to_numpy(zero_copy_only=False), extent.x)
        rows["y"] = extent.grid(batch.column("y").to_numpy(zero_copy_only=False), extent.y)
        for i, column in enumerate(columns):
            rows[f"c.{i}"] = column.encoded(batch.column(column.name))
        yield rows
        start += batch.num_rows


def _write_tile(parts: Parts, tile: Tile, columns: Sequence[Column]) -> None:
    import pyarrow as pa

    place = pa.uint16() if inner_bits(tile.quad.z) == INNER_BITS else pa.uint32()
    schema = pa.schema(
        [("row", pa.uint32()), ("x", place), ("y", place)]
        + [(f"c.{c.name}", pa.from_numpy_dtype(c.dtype)) for c in columns]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in tile.rows:
            arrays = [rows["row"], tile.quad.inside(rows["x"]), tile.quad.inside(rows["y"])]
            arrays += [np.ascontiguousarray(rows[f"c.{i}"]) for i in range(len(columns))]
            yield pa.record_batch([pa.array(np.ascontiguousarray(a)) for a in arrays], schema=schema)

    quad = tile.quad
    parts.write_batches(f"tiles/{quad.z}/{quad.x}-{quad.y}", schema, batches())
