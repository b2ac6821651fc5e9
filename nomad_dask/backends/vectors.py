"""Rows on disk, sorted by cell, read by ranges as float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def normalized(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit length, in place; a row of zeros stays what it is."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    rows /= lengths[:, None]
    return rows


def working_rows(rows: np.ndarray, metric: str) -> np.ndarray:
    """Return rows as the method sees them: float32, of unit length for cosine. The input stays as it is."""
    return normalized(rows.astype(np.float32)) if metric == "cosine" else rows.astype(np.float32, copy=False)


def read_rows(path: Path, start: int, stop: int) -> np.ndarray:
    """Read a range of rows of a C-ordered ``.npy`` file by a plain read.

    The pages of a memory map would count as the memory of the process.
    """
    header = np.load(path, mmap_mode="r", allow_pickle=False)
    width = int(np.prod(header.shape[1:]))
    flat = np.fromfile(
        path,
        header.dtype,
        count=(stop - start) * width,
        offset=header.offset + int(start) * width * header.dtype.itemsize,
    )
    return flat.reshape(-1, *header.shape[1:])


class ShardVectors:
    """Vectors of a shard in cell order, followed by those of the cells of other shards around it.

    When the whole fits in `resident_bytes` it is read once and kept.

    Parameters
    ----------
    parts : sequence of (Path, int, int)
        File, first row and the row after the last of each stretch. The files are C-ordered ``.npy`` files
        of equal width.
    metric : {'euclidean', 'cosine'}
        With 'cosine' rows are scaled to unit length as they are read.
    resident_bytes : int
        Memory that may be used to keep all rows as float32.
    """

    def __init__(
        self, parts: Sequence[tuple[Path, int, int]], metric: str = "euclidean", resident_bytes: int = 0
    ) -> None:
        self.metric = metric
        self._parts = [(path, int(a), int(b)) for path, a, b in parts]
        self._edges = np.concatenate([[0], np.cumsum([b - a for _, a, b in self._parts])])
        self.n_rows = int(self._edges[-1])
        self.n_dims = int(np.load(self._parts[0][0], mmap_mode="r", allow_pickle=False).shape[1])
        self.resident = self.n_rows * self.n_dims * 4 <= resident_bytes
        self._all: np.ndarray | None = None
        if self.resident:
            self._all = self._read(0, self.n_rows)

    def _read(self, start: int, stop: int) -> np.ndarray:
        if start == stop:
            return np.empty((0, self.n_dims), np.float32)
        pieces = []
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        for (path, begin, _), edge, end in zip(
            self._parts[first:], self._edges[first:], self._edges[first + 1 :], strict=False
        ):
            if edge >= stop:
                break
            low, high = max(start, int(edge)), min(stop, int(end))
            pieces.append(read_rows(path, begin + low - int(edge), begin + high - int(edge)))
        rows = np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
        return working_rows(rows, self.metric)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as C-contiguous float32; never write into them."""
        if self._all is not None:
            return self._all[start:stop]
        return self._read(start, stop)
