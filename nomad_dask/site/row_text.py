"""The text of the rows: small parts in the order of the map, fetched when a point is pointed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.site.chunk_writer import Parts
from nomad_dask.site.map_reader import LONGEST_TEXT, MapFile, as_text, is_words, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

_PART_BYTES = 96 << 10
_LEAST_ROWS, _MOST_ROWS = 16, 4096
# Words of a batch become Python strings for a moment, which take ten times the room.
_BATCH_BYTES = 8 << 20


def rows_of_a_part(first: pa.RecordBatch) -> int:
    """Return how many rows a text part has, so that it is about 100 KB: a power of two, by the first rows."""
    fit = _PART_BYTES * first.num_rows / max(1, first.nbytes)
    rows = _LEAST_ROWS
    while rows * 2 <= min(fit, _MOST_ROWS):
        rows *= 2
    return rows


def texts(file: MapFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield where each row is, then some columns as text, of all rows in order."""
    import pyarrow as pa

    places = [(f"@{axis}", _kind_of_place(file.schema.field(axis).type)) for axis in ("x", "y")]
    schema = pa.schema([*places, *((name, pa.string()) for name in columns)])
    others = [name for name in columns if name not in ("x", "y")]
    for batch in file.batches(["x", "y", *others], _BATCH_BYTES):
        # A batch of codes may be short, and the text that they stand for long.
        for start, stop in _pieces(batch):
            piece = batch.slice(start, stop - start)
            at = [piece.column(axis).cast(kind, safe=False) for axis, (_, kind) in zip(("x", "y"), places, strict=True)]
            yield pa.record_batch([*at, *(as_text(piece.column(name)) for name in columns)], schema=schema)


def _kind_of_place(kind: pa.DataType) -> pa.DataType:
    """Return a type of numbers that JavaScript knows and that loses nothing of a position."""
    import pyarrow as pa

    return pa.float32() if pa.types.is_float16(kind) or pa.types.is_float32(kind) else pa.float64()


def _pieces(batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose text takes about `_BATCH_BYTES` at most."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if is_words(column.type):
            sizes += np.minimum(_lengths(column), 4 * LONGEST_TEXT)
    number = (np.cumsum(sizes) - sizes) // _BATCH_BYTES
    yield from pairwise([0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)])


def _lengths(column: pa.Array) -> np.ndarray:
    """Return the bytes (n,) of each text, 0 for null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary.cast(pa.large_string())).take(column.indices)
    else:
        lengths = pc.binary_length(column.cast(pa.large_string()))
    return np.asarray(lengths.fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def write_texts(
    parts: Parts,
    batches: Iterator[pa.RecordBatch],
    part_rows: int,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the parts ``text/k``.

    Parameters
    ----------
    parts : Parts
    batches : iterator of RecordBatch
        What `texts` yields.
    part_rows : int
    advance : callable
        Told the rows written so far.
    """
    done = 0
    for number, table in enumerate(rows_of(batches, part_rows)):
        parts.write_table(f"text/{number}", table)
        done += table.num_rows
        advance(done)
