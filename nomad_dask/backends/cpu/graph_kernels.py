"""Numba kernels of the symmetric graph: the edges to a row are merged with those from it, both sorted.

They take a `ListChunk`: the lists of some rows. Lists are sorted twice, when edges are counted and when they are
merged: sorted copies would take a third more memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def edges_into(chunk, first, last):  # type: ignore[no-untyped-def]
    """Return the directed edges to the rows `first` to `last`: targets - first, sources, both int32, and p(j|i)."""
    n, k = chunk.ids.shape
    n_edges = 0
    for i in range(n):
        for s in range(k):
            n_edges += first <= np.int64(chunk.ids[i, s]) < last
    targets, sources = np.empty(n_edges, np.int32), np.empty(n_edges, np.int32)
    p = np.empty(n_edges, np.float32)
    e = 0
    for i in range(n):
        for s in range(k):
            j = np.int64(chunk.ids[i, s])
            if first <= j < last:
                targets[e] = j - first
                sources[e] = chunk.first + i
                p[e] = chunk.weights[s] / chunk.totals[i]
                e += 1
    return targets, sources, p


@njit(nogil=True, cache=True)
def count_targets(targets, first, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` (n,) int64 the edges to each of the targets `first` to ``first + n``."""
    for j in targets:
        if first <= j < first + counts.shape[0]:
            counts[j - first] += 1


@njit(nogil=True, cache=True)
def place_edges(targets, sources, p, first, ends, by_target):  # type: ignore[no-untyped-def]
    """Write the sources and p of the edges to the targets `first` to ``first + n`` where those of each target end.

    `ends` (n,) int64, and `by_target` the two arrays that receive them. Edges to one target keep their order.
    """
    sorted_sources, sorted_p = by_target
    for e in range(targets.shape[0]):
        j = targets[e] - first
        if 0 <= j < ends.shape[0]:
            sorted_sources[ends[j]] = sources[e]
            sorted_p[ends[j]] = p[e]
            ends[j] += 1


@njit(nogil=True, cache=True)
def _sort_list(chunk, i, targets, outgoing):  # type: ignore[no-untyped-def]
    """Write the neighbors of row i within the graph, sorted, and p of each; return their number."""
    n = 0
    for s in range(chunk.ids.shape[1]):
        j = np.int64(chunk.ids[i, s])
        if j >= chunk.n_rows:
            continue
        at = n
        while at > 0 and targets[at - 1] > j:
            targets[at] = targets[at - 1]
            outgoing[at] = outgoing[at - 1]
            at -= 1
        targets[at] = j
        outgoing[at] = chunk.weights[s] / chunk.totals[i]
        n += 1
    return n


@njit(nogil=True, cache=True)
def count_edges(chunk, incoming):  # type: ignore[no-untyped-def]
    """Return the number of rows (n,) int64 with an edge from or to each row of a chunk; see `IncomingEdges`."""
    offsets, sources, _ = incoming
    n, k = chunk.ids.shape
    targets, outgoing = np.empty(k, np.int32), np.empty(k, np.float32)
    counts = np.empty(n, np.int64)
    for i in range(n):
        n_out = _sort_list(chunk, i, targets, outgoing)
        n_both = 0
        a = 0
        for b in range(offsets[i], offsets[i + 1]):
            while a < n_out and targets[a] < sources[b]:
                a += 1
            n_both += a < n_out and targets[a] == sources[b]
        counts[i] = n_out + offsets[i + 1] - offsets[i] - n_both
    return counts


@njit(nogil=True, cache=True)
def merge_edges(chunk, incoming, edges):  # type: ignore[no-untyped-def]
    """Write the edges of each row of a chunk, ascending.

    Parameters
    ----------
    chunk : ListChunk
    incoming : IncomingEdges
    edges : tuple of ndarray
        ``indptr``, and to fill: ``indices``, ``weights``, the sums of both directions, and ``conditional_p``, p(j|i),
        unless it has no entries.
    """
    offsets, sources, incoming_p = incoming
    indptr, indices, weights, conditional_p = edges
    n, k = chunk.ids.shape
    targets, outgoing = np.empty(k, np.int32), np.empty(k, np.float32)
    for i in range(n):
        n_out = _sort_list(chunk, i, targets, outgoing)
        a, b = 0, offsets[i]
        for e in range(indptr[i], indptr[i + 1]):
            has_out = a < n_out and (b == offsets[i + 1] or targets[a] <= sources[b])
            has_in = b < offsets[i + 1] and (a == n_out or sources[b] <= targets[a])
            out_p = outgoing[a] if has_out else np.float32(0)
            indices[e] = targets[a] if has_out else sources[b]
            weights[e] = out_p + (incoming_p[b] if has_in else np.float32(0))
            if conditional_p.shape[0]:
                conditional_p[e] = out_p
            a += has_out
            b += has_in
