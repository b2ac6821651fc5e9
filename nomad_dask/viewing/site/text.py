"""The text of the rows: small parts in the order of the map, fetched when a point is pointed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nomad_dask.viewing.site.parts import Parts
from nomad_dask.viewing.site.reading import LONGEST_TEXT, MapFile, as_text, is_words, rows_of

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
    """Yield some columns of all rows in order as text."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in columns])
    for batch in file.batches(columns, _BATCH_BYTES):
        # A batch of codes may be short, and the text that they stand for long.
        for start, stop in _pieces([batch.column(name) for name in columns]):
            piece = batch.slice(start, stop - start)
            yield pa.record_batch([as_text(piece.column(name)) for name in columns], schema=schema)


def _pieces(columns: list[pa.Array]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose text takes about `_BATCH_BYTES` at most."""
    sizes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
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
        The text of all rows in order.
    part_rows : int
    advance : callable
        Told the rows written so far.
    """
    done = 0
    for number, table in enumerate(rows_of(batches, part_rows)):
        parts.write_table(f"text/{number}", table)
        done += table.num_rows
        advance(done)
