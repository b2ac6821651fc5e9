"""Rows on disk, sorted by cell, read in ranges as float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np

_LOAD_CHUNK = 1 << 16
# Reading as much takes a disk less time than starting another read.
_MAX_GAP_BYTES = 1 << 14


def normalized(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit length, in place; rows of zeros are left as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    rows /= lengths[:, None]
    return rows


def to_float32(rows: np.ndarray, metric: str) -> np.ndarray:
    """Return rows as float32, scaled to unit length for cosine; the input is not modified."""
    return normalized(rows.astype(np.float32)) if metric == "cosine" else rows.astype(np.float32, copy=False)


@dataclass(frozen=True)
class RowFile:
    """A C-ordered ``.npy`` file, read in ranges of rows.

    Files are not memory-mapped: the pages of a map would count as memory of the process. The header is read once:
    NumPy parses it with Python's compiler, which in CPython 3.11 must not run in several threads at once.
    """

    path: Path
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the header of a file."""
        header = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(path, header.dtype, header.shape[1:], header.offset)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        n_rows, width = int(stop) - int(start), int(np.prod(self.row_shape))
        position = self.offset + int(start) * width * self.dtype.itemsize
        flat = np.fromfile(self.path, self.dtype, count=n_rows * width, offset=position)
        return flat.reshape(n_rows, *self.row_shape)

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Read rows from `start` on into a C-contiguous array of the file's dtype."""
        with self.path.open("rb", buffering=0) as file:
            self._read_into(file, int(start), out)

    def read_every(self, step: int, stop: int) -> np.ndarray:
        """Return every `step`-th row before `stop`, reading no others."""
        rows = range(0, stop, step)
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for i, row in enumerate(rows):
                self._read_into(file, row, out[i : i + 1])
        return out

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, ascending; those near each other are read at once."""
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        max_gap = _MAX_GAP_BYTES // (self.dtype.itemsize * int(np.prod(self.row_shape)))
        ends = np.append(np.flatnonzero(np.diff(rows) > max_gap) + 1, len(rows))
        with self.path.open("rb", buffering=0) as file:
            for start, stop in zip(np.append(0, ends[:-1]), ends, strict=True):
                first = int(rows[start])
                block = np.empty((int(rows[stop - 1]) + 1 - first, *self.row_shape), self.dtype)
                self._read_into(file, first, block)
                out[start:stop] = block[rows[start:stop] - first]
        return out

    def _read_into(self, file: FileIO, start: int, out: np.ndarray) -> None:
        file.seek(self.offset + start * int(np.prod(self.row_shape)) * self.dtype.itemsize)
        left = out.reshape(-1).view(np.uint8).data  # a memoryview cannot be cast when it is empty
        while left.nbytes:
            n_read = file.readinto(left)
            if not n_read:
                raise EOFError(f"{self.path} ends before row {start + len(out)}")
            left = left[n_read:]


class ShardVectors:
    """Vectors of a shard in cell order, followed by those of its halo: cells of other shards around it.

    Parameters
    ----------
    parts : sequence of (Path, int, int)
        File, first row and end of each range of rows. The files are C-ordered ``.npy`` files of equal width.
    metric : {'euclidean', 'cosine'}
        With 'cosine' rows are scaled to unit length as they are read.
    cache_bytes : int
        Memory that `load` may use to keep all rows as float32.
    """

    def __init__(self, parts: Sequence[tuple[Path, int, int]], metric: str = "euclidean", cache_bytes: int = 0) -> None:
        self.metric = metric
        files = {path: RowFile.open(path) for path in {path for path, _, _ in parts}}
        self._parts = [(files[path], int(a), int(b)) for path, a, b in parts]
        self._offsets = np.concatenate([[0], np.cumsum([b - a for _, a, b in self._parts])])
        self.n_rows = int(self._offsets[-1])
        self.n_dims = int(self._parts[0][0].row_shape[0])
        self._cache_bytes = cache_bytes
        self._all: np.ndarray | None = None

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory."""
        return self._all is not None

    def load(self, run: Callable[[Callable[[int, int], object], int, int], object] | None = None) -> None:
        """Read all rows into memory, if they fit.

        Parameters
        ----------
        run : callable, optional
            Calls a function of a range of rows for all chunks of a number of rows, such as `Threads.run`.
        """
        if self.resident or self.n_rows * self.n_dims * 4 > self._cache_bytes:
            return
        rows = np.empty((self.n_rows, self.n_dims), np.float32)

        file, first_row, _ = self._parts[0]
        as_stored = len(self._parts) == 1 and file.dtype == np.float32 and self.metric == "euclidean"

        def fill(start: int, stop: int) -> None:
            if as_stored:  # without a copy
                file.read_into(first_row + start, rows[start:stop])
            else:
                rows[start:stop] = self._read(start, stop)

        if run is None:
            fill(0, self.n_rows)
        else:
            run(fill, self.n_rows, _LOAD_CHUNK)
        self._all = rows

    def unload(self) -> None:
        """Free the memory of `load`."""
        self._all = None

    def read_stored(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as the files have them: in their dtype, of any length."""
        if start == stop:
            return np.empty((0, self.n_dims), np.float32)
        ranges = []
        first = int(np.searchsorted(self._offsets, start, side="right")) - 1
        for (file, first_row, _), part_start, part_stop in zip(
            self._parts[first:], self._offsets[first:], self._offsets[first + 1 :], strict=False
        ):
            if part_start >= stop:
                break
            low, high = max(start, int(part_start)), min(stop, int(part_stop))
            ranges.append(file.read(first_row + low - int(part_start), first_row + high - int(part_start)))
        return np.concatenate(ranges) if len(ranges) != 1 else ranges[0]

    def _read(self, start: int, stop: int) -> np.ndarray:
        return to_float32(self.read_stored(start, stop), self.metric)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as C-contiguous float32; never write into them."""
        if self._all is not None:
            return self._all[start:stop]
        return self._read(start, stop)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, ascending and at least one, as float32; see `RowFile.gather`."""
        if self._all is not None:
            return np.take(self._all, rows, axis=0)
        ends = np.searchsorted(rows, self._offsets)
        parts = [
            file.gather(rows[low:high] - start + first_row)
            for (file, first_row, _), start, low, high in zip(
                self._parts, self._offsets[:-1], ends[:-1], ends[1:], strict=True
            )
            if low < high
        ]
        return to_float32(np.concatenate(parts), self.metric)
