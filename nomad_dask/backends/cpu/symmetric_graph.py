"""The symmetric graph of neighbor lists, by the kernels of `graph_kernels` on several threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nomad_dask.backends.cpu import graph_kernels as kernels
from nomad_dask.backends.weighted_lists import WeightedLists
from nomad_dask.utils.threads import Threads

_ROWS_OF_THREAD = 1 << 16


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
