"""A position in consecutive batches of rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


class BatchCursor:
    """The position of a thread in the batches of some columns.

    Attributes
    ----------
    row : int
        The next row that it can return.
    """

    def __init__(self, row: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.row = row
        self._batches = batches
        self._rest: pa.RecordBatch | None = None

    def advance(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield rows `start` to `stop`, skipping the rows before."""
        while self.row < stop:
            batch = next(self._batches) if self._rest is None else self._rest
            begin = max(0, min(start - self.row, batch.num_rows))
            end = min(stop - self.row, batch.num_rows)
            self._rest = batch.slice(end) if end < batch.num_rows else None
            self.row += end
            if begin < end:
                yield batch.slice(begin, end - begin)
