"""The rows of a shard on the device: all of them, or those of the cells used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.row_reader import ShardVectors

_READERS = 4
_BLOCK_BYTES = 1 << 28


@dataclass(frozen=True)
class RowBatch:
    """Stretches of rows that are on the device at one time.

    Attributes
    ----------
    part : slice
        Which of the stretches asked for.
    rows : array of float32 (m, d)
        On the device; may hold other rows too.
    starts : ndarray of int64
        Where in `rows` each stretch begins.
    places : array of int32 (n,) or None
        On the device: where in `rows` each row of the shard is, -1 if it is not there. None where every row
        is at its own number.
    """

    part: slice
    rows: Any
    starts: np.ndarray
    places: Any


class CellRows(Protocol):
    """Where the search finds rows."""

    def loads(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Bring stretches of rows to the device, as many at a time as there is room for.

        A stretch has ``n_rows[i]`` rows from row ``first[i]`` on, and no two have a row in common.
        """

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the rows (m, d) numbered `rows`, each of which lies in one of the ascending stretches."""


class ResidentRows:
    """All rows on the device, read once.

    Parameters
    ----------
    vectors : ShardVectors
    runtime : Runtime

    Attributes
    ----------
    rows : array of float32 (n, d)
    """

    def __init__(self, vectors: ShardVectors, runtime: Runtime) -> None:
        self._runtime = runtime
        self.rows = runtime.xp.empty((vectors.n_rows, vectors.n_dims), np.float32)
        step = max(1, _BLOCK_BYTES // (4 * vectors.n_dims))
        for start in range(0, vectors.n_rows, step):
            stop = min(start + step, vectors.n_rows)
            self.rows[start:stop] = runtime.upload(vectors.read(start, stop))

    def loads(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Yield everything; see `CellRows`."""
        yield RowBatch(slice(0, len(first)), self.rows, first, None)

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the rows (m, d) numbered `rows`; see `CellRows`."""
        return self.rows[self._runtime.upload(rows)]


class StreamedRows:
    """Rows read from the shard's files when they are asked for; stretches used last stay on the device.

    Parameters
    ----------
    vectors : ShardVectors
    runtime : Runtime
    kept_bytes : int
        Device memory for stretches that may be used again.
    load_bytes : int
        Device memory, and host memory, for what is brought at one time; a single stretch may take more.
    """

    def __init__(self, vectors: ShardVectors, runtime: Runtime, kept_bytes: int, load_bytes: int) -> None:
        self._vectors = vectors
        self._runtime = runtime
        self._max_bytes = kept_bytes
        self._bytes = 0
        self._load_rows = max(1, load_bytes // (4 * vectors.n_dims))
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._places = runtime.xp.full(vectors.n_rows, -1, np.int32)

    def loads(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Yield stretches load by load; see `CellRows`."""
        xp = self._runtime.xp
        for part in _parts(n_rows, self._load_rows):
            starts = np.cumsum(n_rows[part]) - n_rows[part]
            rows = xp.concatenate(self._fetch(list(zip(first[part].tolist(), n_rows[part].tolist(), strict=True))))
            numbers = self._runtime.upload(ranges(first[part], n_rows[part]))
            self._places[numbers] = xp.arange(len(rows), dtype=np.int32)
            yield RowBatch(part, rows, starts, self._places)
            self._places[numbers] = -1

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the rows (m, d) numbered `rows`; see `CellRows`."""
        gathered = self._runtime.xp.empty((len(rows), self._vectors.n_dims), np.float32)
        stretch = np.searchsorted(first, rows, side="right") - 1
        for load in self.loads(first, n_rows):
            here = np.flatnonzero((stretch >= load.part.start) & (stretch < load.part.stop))
            numbers = self._runtime.upload(rows[here])
            gathered[self._runtime.upload(here)] = load.rows[load.places[numbers]]
        return gathered

    def _fetch(self, stretches: list[tuple[int, int]]) -> list[Any]:
        """Return stretches (first row, rows), those that are not kept from the files."""
        found = {}
        for key in stretches:
            if key in self._kept:
                self._kept.move_to_end(key)
                found[key] = self._kept[key]
        missing = [key for key in stretches if key not in found]
        with ThreadPoolExecutor(_READERS) as readers:
            for key, block in zip(missing, readers.map(self._read, missing), strict=True):
                found[key] = self._runtime.upload(block)
                self._kept[key] = found[key]
                self._bytes += block.nbytes
                while self._bytes > self._max_bytes:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return [found[key] for key in stretches]

    def _read(self, stretch: tuple[int, int]) -> np.ndarray:
        return self._vectors.read(stretch[0], stretch[0] + stretch[1])


def ranges(first: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
    """Return the row numbers int32 of all stretches, one after another."""
    before = np.cumsum(n_rows) - n_rows
    return (np.repeat(first - before, n_rows) + np.arange(int(n_rows.sum()))).astype(np.int32)


def _parts(n_rows: np.ndarray, limit: int) -> Iterator[slice]:
    """Yield runs of stretches with `limit` rows or fewer together, or a single one."""
    start = held = 0
    for i, n in enumerate(n_rows.tolist()):
        if held + n > limit and i > start:
            yield slice(start, i)
            start, held = i, 0
        held += n
    if start < len(n_rows):
        yield slice(start, len(n_rows))
