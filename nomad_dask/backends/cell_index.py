"""Rows sorted by cell, as the neighbor searches of all backends use them."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.row_reader import ShardVectors

# The cells to probe for a row are chosen among at least this many cells around its own.
NEAR_CELLS = 64


def mean_probed_rows(sizes: np.ndarray) -> float:
    """Return the mean number of rows in a probed cell, by the sizes of all; large cells are probed more often."""
    return float((sizes.astype(np.float64) ** 2).sum() / sizes.sum())


def expand_ranges(first: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
    """Return the row numbers int32 of all ranges, one range after another."""
    before = np.cumsum(n_rows) - n_rows
    return (np.repeat(first - before, n_rows) + np.arange(int(n_rows.sum()))).astype(np.int32)


def split_ranges(first: np.ndarray, n_rows: np.ndarray, max_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide ranges of rows into parts of at most `max_rows` rows: return the range, first row and size of each."""
    n_parts = -(-n_rows // max_rows)
    owners = np.repeat(np.arange(len(n_rows)), n_parts)
    before = max_rows * (np.arange(len(owners)) - (np.cumsum(n_parts) - n_parts)[owners])
    return owners, first[owners] + before, np.minimum(n_rows[owners] - before, max_rows)


class CellIndex:
    """Rows of one shard in cell order.

    Parameters
    ----------
    vectors : ShardVectors
        Rows (n, d), sorted by cell.
    cell_offsets : ndarray (R + 1,) int64
        Cell c owns rows ``cell_offsets[c]`` to ``cell_offsets[c + 1]``.
    centroids : ndarray (R, d) float32
        Means of the cells; those of empty cells are ignored.
    memory_bytes : int
        Limit of host memory, besides the results.
    n_queries : int, optional
        The first `n_queries` rows (whole cells) are searched for; all rows can be neighbors. None searches for all.
    """

    def __init__(
        self,
        vectors: ShardVectors,
        cell_offsets: np.ndarray,
        centroids: np.ndarray,
        memory_bytes: int,
        n_queries: int | None,
    ) -> None:
        self.vectors = vectors
        self.n_queries = vectors.n_rows if n_queries is None else n_queries
        self.memory_bytes = memory_bytes
        filled = np.flatnonzero(np.diff(cell_offsets) > 0)
        self._first = np.asarray(cell_offsets)[filled].astype(np.int64)
        self._sizes = np.diff(cell_offsets)[filled].astype(np.int64)
        self._centroids = np.asarray(centroids, np.float32)[filled]
        self.n_cells = len(filled)

    @property
    def mean_probed_rows(self) -> float:
        """Mean number of rows in a probed cell; large cells are probed more often."""
        return mean_probed_rows(self._sizes)

    def _cell_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first, rows, side="right") - 1

    def _order_cells(self, centers: np.ndarray) -> np.ndarray:
        """Return the cells to search for in an order that keeps near ones together, by recursive bisection.

        Parameters
        ----------
        centers : ndarray (n_cells, axes)
            Positions of the cells.
        """
        parts = [np.arange(int(np.searchsorted(self._first, self.n_queries)))]
        while any(len(part) > 2 for part in parts):
            smaller: list[np.ndarray] = []
            for part in parts:
                widest = int(centers[part].var(axis=0).argmax())
                order = part[np.argsort(centers[part, widest], kind="stable")]
                smaller += [order[: len(order) // 2], order[len(order) // 2 :]] if len(part) > 2 else [part]
            parts = smaller
        return np.concatenate(parts)
