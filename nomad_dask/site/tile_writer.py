"""Tiles in the format of the page, and the rows of a map in the format of the quadtree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.site.chunk_writer import ChunkWriter
from nomad_dask.site.columns import Column
from nomad_dask.site.map_reader import MapFile, as_numbers
from nomad_dask.site.quadtree import Tile
from nomad_dask.site.quantize import INNER_BITS, Extent, inner_bits

if TYPE_CHECKING:
    import pyarrow as pa


def read_rows(file: MapFile, extent: Extent, columns: Sequence[Column], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """Yield the rows of a map in batches.

    Parameters
    ----------
    file : MapFile
    extent : Extent
    columns : sequence of Column
        The columns of the tiles.
    dtype : dtype
        Type of a row, from `row_type`, with the fields ``c.0``, ``c.1``, ... for the columns.
    """
    start = 0
    right, upward = file.axes
    for batch in file.batches([right, upward, *(c.name for c in columns if c.name not in file.axes)]):
        rows = np.empty(batch.num_rows, dtype)
        rows["row"] = np.arange(start, start + batch.num_rows)
        rows["x"] = extent.grid(as_numbers(batch.column(right)), extent.x)
        rows["y"] = extent.grid(as_numbers(batch.column(upward)), extent.y)
        for i, column in enumerate(columns):
            rows[f"c.{i}"] = column.encode(batch.column(column.name))
        yield rows
        start += batch.num_rows


def write_tile(writer: ChunkWriter, tile: Tile, columns: Sequence[Column]) -> None:
    """Write one tile as the chunk ``tiles/z/x-y``."""
    import pyarrow as pa

    coordinate = pa.uint16() if inner_bits(tile.quad.z) == INNER_BITS else pa.uint32()
    schema = pa.schema(
        [("row", pa.uint32()), ("x", coordinate), ("y", coordinate)]
        + [(f"c.{c.name}", pa.from_numpy_dtype(c.dtype)) for c in columns]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in tile.rows:
            arrays = [rows["row"], tile.quad.inside(rows["x"]), tile.quad.inside(rows["y"])]
            arrays += [np.ascontiguousarray(rows[f"c.{i}"]) for i in range(len(columns))]
            yield pa.record_batch([pa.array(np.ascontiguousarray(a)) for a in arrays], schema=schema)

    quad = tile.quad
    writer.write_batches(f"tiles/{quad.z}/{quad.x}-{quad.y}", schema, batches())
