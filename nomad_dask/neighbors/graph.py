"""From neighbors to the graph of attraction: weights by rank, and symmetrization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from nomad_dask.backends import graph_kernels as kernels
from nomad_dask.backends.base import TAIL_STRIDE
from nomad_dask.planning.plan import MIN_RANGE_ROWS, N_RANGES
from nomad_dask.utils.threads import Threads

NO_ROW = np.uint32(0xFFFFFFFF)
"""In lists of neighbors: none. What the search writes as -1 of int32 is the same as uint32."""
_ROWS_AT_ONCE = 1 << 18
_ROWS_OF_THREAD = 1 << 16


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


class IncomingEdges(NamedTuple):
    """The directed edges to each of some rows, as kernels take them.

    Attributes
    ----------
    offsets : ndarray of int64 (n + 1,)
        Edges ``offsets[i]`` to ``offsets[i + 1]`` are to row i.
    sources : ndarray of int32 (n_edges,)
        Ascending for each row.
    p : ndarray of float32 (n_edges,)
        p(j|i), where j is the row and i the source.
    """

    offsets: np.ndarray
    sources: np.ndarray
    p: np.ndarray

    def part(self, start: int, stop: int) -> IncomingEdges:
        """Return the edges to some of these rows."""
        return self._replace(offsets=self.offsets[start : stop + 1])


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

    @classmethod
    def of(cls, ids: np.ndarray, kind: str) -> Self:
        """Weight the neighbors (n_rows, k) uint32 of all rows by their rank; see `rank_weights`."""
        weights = rank_weights(ids.shape[1], kind)
        return cls(len(ids), lambda start, stop: ids[start:stop], weights, total_weights(ids, weights))

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


@dataclass(frozen=True)
class Edges:
    """The symmetric graph of a shard, or of a range of its rows, as CSR.

    Attributes
    ----------
    indptr, indices : ndarray of int64 (n_rows + 1,), int32 (n_edges,)
    weights : ndarray of float32 (n_edges,)
        a_ij = p(j|i) + p(i|j).
    conditional_p : ndarray of float32 (n_edges,) or None
        p(j|i), if requested.
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    conditional_p: np.ndarray | None


def rank_weights(k: int, kind: str, n_tail: int = 0) -> np.ndarray:
    """Return the weight (k + n_tail,) float32 of a neighbor by its rank, nearest first; the weights sum to 1.

    'log' 1/log2(rank+1), 'inverse' 1/rank, 'shifted-inverse' 1/(rank+2), 'softmax-inverse' the softmax of 1/rank
    (the paper), 'uniform'. A neighbor in the tail has the weight of all `TAIL_STRIDE` ranks for which it stands.
    """
    ranks = np.append(np.arange(1, k + 1), k + 0.5 + TAIL_STRIDE * (np.arange(n_tail) + 0.5))
    n_ranks = np.repeat([1.0, TAIL_STRIDE], [k, n_tail])
    by_rank = {
        "log": 1 / np.log2(ranks + 1),
        "inverse": 1 / ranks,
        "shifted-inverse": 1 / (ranks + 2),
        "softmax-inverse": np.exp(1 / ranks),
        "uniform": np.ones(k + n_tail),
    }[kind]
    weights = n_ranks * by_rank
    return np.asarray(weights / max(weights.sum(), 1e-30), np.float32)


def total_weights(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sum (n_rows,) float32 of the weights of the neighbors that each row has; 1 where it has none."""
    totals = np.where(ids != NO_ROW, weights, np.float32(0)).sum(axis=1)
    totals[totals == 0] = 1
    return np.asarray(totals)


def join_tail(ids: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return lists (n_rows, k + n_tail) uint32 followed by their tails, without what is in both."""
    joined = np.empty((len(ids), ids.shape[1] + tail.shape[1]), np.uint32)
    kernels.join_tails(ids, tail, NO_ROW, joined)
    return joined


def symmetric_graph(
    lists: WeightedLists,
    with_conditional_p: bool = True,
    rows: tuple[int, int] | None = None,
    pool: Threads | None = None,
) -> Edges:
    """Return the symmetric graph of directed edges.

    Parameters
    ----------
    lists : WeightedLists
    with_conditional_p : bool
        Whether to return p(j|i) besides the sum of both directions, at twice the memory.
    rows : (int, int), optional
        Return the edges of a range of rows only; by default those of all rows.
    pool : Threads, optional
        The result does not depend on the number of its threads.
    """
    first, last = rows or (0, lists.n_rows)
    pool = pool or Threads(1)
    chunk, incoming = lists.chunk(first, last), _incoming_edges(lists, first, last, pool)
    counts = np.zeros(last - first, np.int64)

    def count(start: int, stop: int) -> None:
        counts[start:stop] = kernels.count_edges(chunk.part(start, stop), incoming.part(start, stop))

    pool.run(count, last - first, _ROWS_OF_THREAD)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    conditional_p = np.empty(indptr[-1] if with_conditional_p else 0, np.float32)

    def merge(start: int, stop: int) -> None:
        edges = (indptr[start : stop + 1], indices, weights, conditional_p)
        kernels.merge_edges(chunk.part(start, stop), incoming.part(start, stop), edges)

    pool.run(merge, last - first, _ROWS_OF_THREAD)
    return Edges(indptr, indices, weights, conditional_p if with_conditional_p else None)


def _incoming_edges(lists: WeightedLists, first: int, last: int, pool: Threads) -> IncomingEdges:
    """Return the directed edges to a range of rows."""
    chunks = lists.chunk_ranges()
    parts: list[tuple[np.ndarray, ...]] = [()] * len(chunks)

    def select(start: int, stop: int) -> None:
        for c in range(start, stop):
            parts[c] = kernels.edges_into(lists.chunk(*chunks[c]), first, last)

    pool.run(select, len(chunks), 1)
    counts = np.zeros(last - first, np.int64)
    targets_of_thread = max(1, -(-(last - first) // pool.n))  # each thread looks through all edges for its targets

    def count(start: int, stop: int) -> None:
        for targets, _, _ in parts:
            kernels.count_targets(targets, start, counts[start:stop])

    pool.run(count, last - first, targets_of_thread)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ends = offsets[:-1].copy()
    by_target = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)

    def place(start: int, stop: int) -> None:
        for part in parts:
            kernels.place_edges(*part, start, ends[start:stop], by_target)

    pool.run(place, last - first, targets_of_thread)
    return IncomingEdges(offsets, *by_target)


def graph_ranges(n_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows in which the graph of a shard is built: all lists are read for each of them."""
    step = max(MIN_RANGE_ROWS, -(-n_rows // N_RANGES))
    for first in range(0, n_rows, step):
        yield first, min(first + step, n_rows)
