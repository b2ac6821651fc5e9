"""The stages of an export: a few passes over the map, none of which holds it in memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.callbacks.events import Emit, StageAdvanced, StageFinished, StageStarted
from nomad_dask.errors import ResourceError
from nomad_dask.site.chunk_writer import ChunkWriter
from nomad_dask.site.columns import ColumnNames, ExportColumns, select_columns
from nomad_dask.site.map_reader import MapFile
from nomad_dask.site.overview import SIZES, PointCounts
from nomad_dask.site.quadtree import Quad, RowStream, build_tiles, row_type
from nomad_dask.site.quantize import Extent, find_extent
from nomad_dask.site.row_text import read_texts, rows_per_chunk, write_texts
from nomad_dask.site.search_index import SearchIndex
from nomad_dask.site.tile_writer import read_rows, write_tile

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ExportStages:
    """The stages of one export, to be run in the order of the methods.

    Attributes
    ----------
    file : MapFile
    writer : ChunkWriter
    scratch : Path
        Directory for temporary files.
    emit : callable
        Receives the events of the stages.
    memory_rows : int
        Maximum number of rows in memory.
    seconds : dict of str to float
        Duration of each stage that has finished.
    """

    file: MapFile
    writer: ChunkWriter
    scratch: Path
    emit: Emit
    memory_rows: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def _stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        self.emit(StageStarted(name, total, unit))
        start = time.monotonic()
        yield lambda done: self.emit(StageAdvanced(name, done))
        self.seconds[name] = round(time.monotonic() - start, 3)
        self.emit(StageFinished(name, self.seconds[name]))

    def find_extent(self) -> Extent:
        """Return the square around all points."""
        with self._stage("extent", self.file.n_rows, "rows") as on_progress:
            return find_extent(self.file, on_progress)

    def select_columns(self, names: ColumnNames) -> ExportColumns:
        """Return the columns to show, and check that the disk has space for their tiles."""
        with self._stage("columns", len(self.file.schema.names), "columns") as on_progress:
            columns = select_columns(self.file, names, on_progress)
        _check_free_space(self.writer.folder, self.file.n_rows, columns, self.memory_rows)
        return columns

    def write_tiles(self, extent: Extent, columns: ExportColumns, tile_rows: int) -> tuple[pa.Table, PointCounts]:
        """Write the tiles; return their index, and the number of points by pixel."""
        import pyarrow as pa

        n, counts, tiles = self.file.n_rows, PointCounts(), []
        dtype = row_type([(f"c.{i}", column.dtype) for i, column in enumerate(columns.in_tiles)])
        with self._stage("tiles", 2 * n, "rows") as on_progress:

            def read() -> Iterator[np.ndarray]:
                done = 0
                for rows in read_rows(self.file, extent, columns.in_tiles, dtype):
                    counts.add(rows["x"], rows["y"])
                    yield rows
                    done += len(rows)
                    on_progress(done)

            stream, done = RowStream(n, dtype, read), n
            for tile in build_tiles(stream, Quad(0, 0, 0), tile_rows, self.scratch, self.memory_rows):
                write_tile(self.writer, tile, columns.in_tiles)
                tiles.append((*tile.quad, tile.n))
                done += tile.n
                on_progress(done)
        tiles.sort()
        fields = (("z", np.uint8), ("x", np.uint32), ("y", np.uint32), ("n", np.uint32))
        values = zip(fields, np.array(tiles, np.int64).T, strict=True)
        return pa.table({name: column.astype(kind) for (name, kind), column in values}), counts

    def write_overviews(self, counts: PointCounts) -> list[dict[str, Any]]:
        """Write the pictures of all points; return their names and sizes."""
        pictures: list[dict[str, Any]] = []
        with self._stage("pictures", len(SIZES), "pictures") as on_progress:
            for size in SIZES:
                name = f"overview/{len(pictures)}.png"
                pictures.append({"name": name, "pixels": size})
                self.writer.write_file(name, counts.picture(size))
                on_progress(len(pictures))
        return pictures

    def write_texts(self, columns: ExportColumns) -> tuple[int, int]:
        """Write the texts and the search index; return the rows of a text chunk, and the number of search chunks."""
        batches = read_texts(self.file, columns.hover)
        first = next(batches)
        chunk_rows = rows_per_chunk(first)
        with SearchIndex(self.scratch) as index:

            def read() -> Iterator[pa.RecordBatch]:
                done = 0
                for batch in chain([first], batches):
                    if columns.search:
                        # By number: the first two columns are the position, and a column of text may have their name.
                        index.add(done, [batch.column(2 + columns.hover.index(name)) for name in columns.search])
                    yield batch
                    done += batch.num_rows

            with self._stage("text", self.file.n_rows, "rows") as on_progress:
                write_texts(self.writer, read(), chunk_rows, on_progress)
            if not columns.search:
                return chunk_rows, 0
            with self._stage("search", 256, "files") as on_progress:
                return chunk_rows, index.write(self.writer, on_progress)


def _check_free_space(folder: Path, n_rows: int, columns: ExportColumns, memory_rows: int) -> None:
    """Check that the disk has space for the tiles and their temporary files; the size of the text is not known.

    Raises
    ------
    ResourceError
    """
    colors = sum(column.dtype.itemsize for column in columns.in_tiles)
    tile_bytes, scratch_bytes = 8 + colors, row_type([]).itemsize + colors
    required = n_rows * tile_bytes * 4 // 3 + (n_rows * scratch_bytes if n_rows > memory_rows else 0)
    free = shutil.disk_usage(folder).free
    if free < required:
        raise ResourceError(
            f"The points of the site take {required:,} bytes of disk, and {free:,} are free: free some space, use a "
            "larger disk, or color by fewer columns."
        )
