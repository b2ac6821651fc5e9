"""From neighbors to the graph of attraction: weights by rank, and symmetrization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from nomad_dask.backends import graph_kernels as kernels
from nomad_dask.backends.base import TAIL_STRIDE
from nomad_dask.planning.plan import MIN_RANGE_ROWS, N_RANGES

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

    @classmethod
    def of(cls, ids: np.ndarray, kind: str) -> Self:
        """Weight the neighbors (n_rows, k) uint32 of all rows by their rank; see `rank_weights`."""
        weights = rank_weights(ids.shape[1], kind)
        return cls(len(ids), lambda start, stop: ids[start:stop], weights, total_weights(ids, weights))

    def chunk(self, start: int, stop: int) -> ListChunk:
        """Return the lists of the rows `start` to `stop`."""
        return ListChunk(start, self.n_rows, self.read(start, stop), self.weights, self.totals[start:stop])

    def chunks(self) -> Iterator[ListChunk]:
        """Yield the lists of all rows; one chunk without rows if there are none."""
        for start in range(0, max(self.n_rows, 1), _ROWS_AT_ONCE):
            yield self.chunk(start, min(start + _ROWS_AT_ONCE, self.n_rows))


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
    is_listed = np.zeros(tail.shape, bool)
    for column in range(ids.shape[1]):
        is_listed |= tail == ids[:, column, None]
    return np.hstack([ids, np.where(is_listed, NO_ROW, tail)])


def symmetric_graph(
    lists: WeightedLists, with_conditional_p: bool = True, rows: tuple[int, int] | None = None
) -> Edges:
    """Return the symmetric graph of directed edges.

    Parameters
    ----------
    lists : WeightedLists
    with_conditional_p : bool
        Whether to return p(j|i) besides the sum of both directions, at twice the memory.
    rows : (int, int), optional
        Return the edges of a range of rows only; by default those of all rows.
    """
    first, last = rows or (0, lists.n_rows)
    chunk, incoming = lists.chunk(first, last), _incoming_edges(lists, first, last)
    indptr = np.concatenate([[0], np.cumsum(kernels.count_edges(chunk, incoming))])
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    conditional_p = np.empty(indptr[-1] if with_conditional_p else 0, np.float32)
    kernels.merge_edges(chunk, incoming, (indptr, indices, weights, conditional_p))
    return Edges(indptr, indices, weights, conditional_p if with_conditional_p else None)


def _incoming_edges(lists: WeightedLists, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directed edges to a range of rows by target: offsets, sources, ascending, and p(j|i)."""
    parts = [kernels.edges_into(chunk, first, last) for chunk in lists.chunks()]
    targets, sources, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    incoming: tuple[np.ndarray, np.ndarray, np.ndarray] = kernels.sort_by_target(targets, sources, p, last - first)
    return incoming


def graph_ranges(n_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows in which the graph of a shard is built: all lists are read for each of them."""
    step = max(MIN_RANGE_ROWS, -(-n_rows // N_RANGES))
    for first in range(0, n_rows, step):
        yield first, min(first + step, n_rows)
