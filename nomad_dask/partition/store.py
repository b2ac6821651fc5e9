"""The rows of one shard, sorted by cell, as a file that is read by ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def normalized(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit length, in place; a row of zeros stays what it is."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths[lengths == 0] = 1
    rows /= lengths[:, None]
    return rows


class ShardVectors:
    """Vectors of a shard in cell order, read as float32.

    Ranges are read with plain file reads, not through a memory map, whose pages would count as the
    process's memory. When the whole fits in `resident_bytes` it is read once and kept.

    Parameters
    ----------
    path : Path
        A C-ordered ``.npy`` file ``(n_rows, n_dims)``.
    metric : {'euclidean', 'cosine'}
        With 'cosine' rows are scaled to unit length as they are read.
    resident_bytes : int
        Memory that may be used to keep all rows as float32.
    """

    def __init__(self, path: Path, metric: str = "euclidean", resident_bytes: int = 0) -> None:
        header = np.load(path, mmap_mode="r", allow_pickle=False)
        self.path = path
        self.metric = metric
        self.n_rows, self.n_dims = header.shape
        self._dtype = header.dtype
        self._offset = header.offset
        self.resident = self.n_rows * self.n_dims * 4 <= resident_bytes
        self._all: np.ndarray | None = None
        if self.resident:
            self._all = self._read(0, self.n_rows)

    def _read(self, start: int, stop: int) -> np.ndarray:
        row_bytes = self.n_dims * self._dtype.itemsize
        flat = np.fromfile(
            self.path,
            self._dtype,
            count=(stop - start) * self.n_dims,
            offset=self._offset + start * row_bytes,
        )
        rows = flat.reshape(stop - start, self.n_dims).astype(np.float32, copy=False)
        return normalized(rows) if self.metric == "cosine" else rows

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as C-contiguous float32; never write into them."""
        if self._all is not None:
            return self._all[start:stop]
        return self._read(start, stop)
