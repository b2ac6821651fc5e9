"""The text of the rows: small chunks in the order of the map, loaded when the pointer is over a point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.site.chunk_writer import ChunkWriter
from nomad_dask.site.map_reader import MAX_TEXT_LENGTH, MapFile, as_text, is_words, rebatch

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_BYTES = 96 << 10
_MIN_ROWS, _MAX_ROWS = 16, 4096
# The words of a batch are Python strings for a moment, which take ten times the memory.
_BATCH_BYTES = 8 << 20


def rows_per_chunk(first: pa.RecordBatch) -> int:
    """Return a number of rows with about 100 KB of text: a power of two, estimated from the first batch."""
    target = _CHUNK_BYTES * first.num_rows / max(1, first.nbytes)
    rows = _MIN_ROWS
    while rows * 2 <= min(target, _MAX_ROWS):
        rows *= 2
    return rows


def read_texts(file: MapFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the position of each row, then some columns as text, of all rows in order."""
    import pyarrow as pa

    # The page calls the axes x and y, whichever they are.
    positions = [
        (f"@{name}", _position_type(file.schema.field(axis).type)) for name, axis in zip("xy", file.axes, strict=True)
    ]
    schema = pa.schema([*positions, *((name, pa.string()) for name in columns)])
    others = [name for name in columns if name not in file.axes]
    for batch in file.batches([*file.axes, *others], _BATCH_BYTES):
        # A batch of dictionary codes may be small, and the text that they stand for large.
        for start, stop in _split(batch):
            piece = batch.slice(start, stop - start)
            position = [
                piece.column(axis).cast(kind, safe=False) for axis, (_, kind) in zip(file.axes, positions, strict=True)
            ]
            yield pa.record_batch([*position, *(as_text(piece.column(name)) for name in columns)], schema=schema)


def _position_type(kind: pa.DataType) -> pa.DataType:
    """Return a floating-point type that JavaScript has, and that keeps positions exact where possible."""
    import pyarrow as pa

    return pa.float32() if pa.types.is_float16(kind) or pa.types.is_float32(kind) else pa.float64()


def _split(batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows with at most about `_BATCH_BYTES` of text."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if is_words(column.type):
            sizes += np.minimum(_text_bytes(column), 4 * MAX_TEXT_LENGTH)
    number = (np.cumsum(sizes) - sizes) // _BATCH_BYTES
    yield from pairwise([0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)])


def _text_bytes(column: pa.Array) -> np.ndarray:
    """Return the bytes of each text (n,), 0 for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary.cast(pa.large_string())).take(column.indices)
    else:
        lengths = pc.binary_length(column.cast(pa.large_string()))
    return np.asarray(lengths.fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def write_texts(
    writer: ChunkWriter,
    batches: Iterator[pa.RecordBatch],
    chunk_rows: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the chunks ``text/k``.

    Parameters
    ----------
    writer : ChunkWriter
    batches : iterator of RecordBatch
        Rows from `read_texts`.
    chunk_rows : int
        Rows of a chunk.
    on_progress : callable
        Called with the number of rows written so far.
    """
    done = 0
    for number, table in enumerate(rebatch(batches, chunk_rows)):
        writer.write_table(f"text/{number}", table)
        done += table.num_rows
        on_progress(done)
