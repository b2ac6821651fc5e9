"""The rows of a shard on the device: all of them, or those of recently used cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.cell_index import expand_ranges
from nomad_dask.backends.gpu.block_reader import to_float32
from nomad_dask.backends.gpu.row_stream import READERS, upload_blocks
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.row_reader import ShardVectors

_BLOCK_BYTES, _READ_AHEAD_BYTES = 1 << 28, 1 << 29


@dataclass(frozen=True)
class RowBatch:
    """Ranges of rows that are on the device at the same time.

    Attributes
    ----------
    part : slice
        Which of the requested ranges.
    rows : array of float32 (m, d)
        On the device; can include other rows.
    starts : ndarray of int64
        Start of each range in `rows`.
    positions : array of int32 (n,) or None
        On the device: the position in `rows` of each row of the shard, -1 for rows that are not loaded. None if
        `rows` holds the whole shard.
    """

    part: slice
    rows: Any
    starts: np.ndarray
    positions: Any


class CellRows(Protocol):
    """Provides rows to the search."""

    def load_batches(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Bring disjoint ranges of rows to the device, as many at a time as fit.

        Range i has ``n_rows[i]`` rows, starting at row ``first[i]``.
        """

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the vectors (m, d) of `rows` (m,), each of which is in one of the ascending ranges."""


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
        for start, stop, rows in upload_blocks(vectors, _BLOCK_BYTES, _READ_AHEAD_BYTES, runtime):
            self.rows[start:stop] = rows

    def load_batches(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Yield all ranges in one batch; see `CellRows`."""
        yield RowBatch(slice(0, len(first)), self.rows, first, None)

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the vectors (m, d) of `rows`; see `CellRows`."""
        return self.rows[self._runtime.upload(rows)]


class StreamedRows:
    """Rows that are read from the shard's files when needed; recently used ranges stay on the device.

    Parameters
    ----------
    vectors : ShardVectors
    runtime : Runtime
    cache_bytes : int
        Device memory for ranges that may be used again.
    batch_bytes : int
        Device memory, and host memory, for a batch; a batch of a single range may exceed it.
    """

    def __init__(self, vectors: ShardVectors, runtime: Runtime, cache_bytes: int, batch_bytes: int) -> None:
        self._vectors = vectors
        self._runtime = runtime
        self._max_cache_bytes = cache_bytes
        self._cache_bytes = 0
        self._batch_rows = max(1, batch_bytes // (4 * vectors.n_dims))
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._positions = runtime.xp.full(vectors.n_rows, -1, np.int32)

    def load_batches(self, first: np.ndarray, n_rows: np.ndarray) -> Iterator[RowBatch]:
        """Yield the ranges batch by batch; see `CellRows`."""
        xp = self._runtime.xp
        for part in _split_ranges(n_rows, self._batch_rows):
            starts = np.cumsum(n_rows[part]) - n_rows[part]
            keys = list(zip(first[part].tolist(), n_rows[part].tolist(), strict=True))
            rows = xp.concatenate(self._load_ranges(keys))
            numbers = self._runtime.upload(expand_ranges(first[part], n_rows[part]))
            self._positions[numbers] = xp.arange(len(rows), dtype=np.int32)
            yield RowBatch(part, rows, starts, self._positions)
            self._positions[numbers] = -1

    def gather(self, rows: np.ndarray, first: np.ndarray, n_rows: np.ndarray) -> Any:
        """Return the vectors (m, d) of `rows`; see `CellRows`."""
        gathered = self._runtime.xp.empty((len(rows), self._vectors.n_dims), np.float32)
        range_of_row = np.searchsorted(first, rows, side="right") - 1
        for batch in self.load_batches(first, n_rows):
            loaded = np.flatnonzero((range_of_row >= batch.part.start) & (range_of_row < batch.part.stop))
            numbers = self._runtime.upload(rows[loaded])
            gathered[self._runtime.upload(loaded)] = batch.rows[batch.positions[numbers]]
        return gathered

    def _load_ranges(self, keys: list[tuple[int, int]]) -> list[Any]:
        """Return ranges (first row, number of rows) from the cache or from the files."""
        loaded = {}
        for key in keys:
            if key in self._cache:
                self._cache.move_to_end(key)
                loaded[key] = self._cache[key]
        missing = [key for key in keys if key not in loaded]
        with ThreadPoolExecutor(READERS) as readers:
            for key, block in zip(missing, readers.map(self._read, missing), strict=True):
                loaded[key] = to_float32(block, self._vectors.metric, self._runtime)
                self._cache[key] = loaded[key]
                self._cache_bytes += loaded[key].nbytes
                while self._cache_bytes > self._max_cache_bytes:
                    self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return [loaded[key] for key in keys]

    def _read(self, key: tuple[int, int]) -> np.ndarray:
        first, n_rows = key
        return self._vectors.read_stored(first, first + n_rows)


def _split_ranges(n_rows: np.ndarray, max_rows: int) -> Iterator[slice]:
    """Yield runs of ranges with at most `max_rows` rows in total, or a single larger range."""
    start = total = 0
    for i, n in enumerate(n_rows.tolist()):
        if total + n > max_rows and i > start:
            yield slice(start, i)
            start, total = i, 0
        total += n
    if start < len(n_rows):
        yield slice(start, len(n_rows))
