"""Neighbor lists and the weights of their entries by rank: the directed edges of which the graph is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_ROW = np.uint32(0xFFFFFFFF)
"""In lists of neighbors: none. What the search writes as -1 of int32 is the same as uint32."""
_ROWS_AT_ONCE = 1 << 18


class ListChunk(NamedTuple):
    """The weighted lists of some rows, as kernels take them.

    Attributes
    ----------
    first, n_rows : int
        The first of these rows, and the number of all rows of the graph.
    ids : ndarray of uint32 (n, k)
    weights : ndarray of float32 (k,)
    totals : ndarray of float32 (n,)
    """

    first: int
    n_rows: int
    ids: np.ndarray
    weights: np.ndarray
    totals: np.ndarray

    def part(self, start: int, stop: int) -> ListChunk:
        """Return the lists of some of these rows."""
        return self._replace(first=self.first + start, ids=self.ids[start:stop], totals=self.totals[start:stop])

    def outside(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the edges to rows outside the graph, by row: rows, ids and p(j|i)."""
        rows, ranks = np.nonzero((self.ids >= self.n_rows) & (self.ids != NO_ROW))
        p = self.weights[ranks] / self.totals[rows]
        return (self.first + rows).astype(np.int32), self.ids[rows, ranks], p


@dataclass(frozen=True)
class WeightedLists:
    """Directed edges: the neighbors of each row, nearest first, and their weights by rank.

    p(j|i), of the neighbor j at rank r, is ``weights[r] / total``, where the total is that of the neighbors i has.

    Attributes
    ----------
    n_rows : int
    read : callable
        Returns the neighbors (n, k) uint32 of the rows `start` to `stop`, none of them twice. `NO_ROW` means none;
        other numbers from `n_rows` on are rows outside the graph.
    weights : ndarray of float32 (k,)
    totals : ndarray of float32 (n_rows,)
        Sum of the weights of the neighbors of each row; 1 where it has none.
    """

    n_rows: int
    read: Callable[[int, int], np.ndarray]
    weights: np.ndarray
    totals: np.ndarray

    def chunk(self, start: int, stop: int) -> ListChunk:
        """Return the lists of the rows `start` to `stop`."""
        return ListChunk(start, self.n_rows, self.read(start, stop), self.weights, self.totals[start:stop])

    def chunk_ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of rows of the chunks of all lists; one without rows if there are none."""
        starts = range(0, max(self.n_rows, 1), _ROWS_AT_ONCE)
        return [(start, min(start + _ROWS_AT_ONCE, self.n_rows)) for start in starts]

    def chunks(self) -> Iterator[ListChunk]:
        """Yield the lists of all rows; one chunk without rows if there are none."""
        return (self.chunk(start, stop) for start, stop in self.chunk_ranges())
