"""Numba kernels of the symmetric graph: the edges to a row are merged with those from it, both sorted.

The lists are sorted twice, when edges are counted and when they are merged: sorted copies would take a third more
memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def incoming_edges(ids, weights):  # type: ignore[no-untyped-def]
    """Return the directed edges by target: offsets (n + 1,) int64, sources int32, ascending, and weights."""
    n, k = ids.shape
    offsets = np.zeros(n + 1, np.int64)
    for i in range(n):
        for s in range(k):
            if ids[i, s] >= 0:
                offsets[ids[i, s] + 1] += 1
    offsets = np.cumsum(offsets)
    ends = offsets[:-1].copy()
    sources = np.empty(offsets[-1], np.int32)
    incoming = np.empty(offsets[-1], np.float32)
    for i in range(n):
        for s in range(k):
            j = ids[i, s]
            if j >= 0:
                sources[ends[j]] = i
                incoming[ends[j]] = weights[i, s]
                ends[j] += 1
    return offsets, sources, incoming


@njit(nogil=True, cache=True)
def _sort_list(ids, weights, targets, outgoing):  # type: ignore[no-untyped-def]
    """Write a list sorted by id, without missing entries; return its length."""
    n = 0
    for s in range(ids.shape[0]):
        if ids[s] < 0:
            continue
        at = n
        while at > 0 and targets[at - 1] > ids[s]:
            targets[at] = targets[at - 1]
            outgoing[at] = outgoing[at - 1]
            at -= 1
        targets[at] = ids[s]
        outgoing[at] = weights[s]
        n += 1
    return n


@njit(nogil=True, cache=True)
def count_edges(ids, weights, incoming):  # type: ignore[no-untyped-def]
    """Return the number of rows (n,) int64 with an edge from or to each row; see `incoming_edges`."""
    offsets, sources, _ = incoming
    n, k = ids.shape
    targets, outgoing = np.empty(k, np.int32), np.empty(k, np.float32)
    counts = np.empty(n, np.int64)
    for i in range(n):
        n_out = _sort_list(ids[i], weights[i], targets, outgoing)
        n_both = 0
        a = 0
        for b in range(offsets[i], offsets[i + 1]):
            while a < n_out and targets[a] < sources[b]:
                a += 1
            n_both += a < n_out and targets[a] == sources[b]
        counts[i] = n_out + offsets[i + 1] - offsets[i] - n_both
    return counts


@njit(nogil=True, cache=True)
def merge_edges(ids, weights, incoming, indptr, indices, sums, conditional_p):  # type: ignore[no-untyped-def]
    """Write the edges of each row, ascending: the sums of both directions, and p(j|i) unless it has no entries."""
    offsets, sources, incoming_weights = incoming
    n, k = ids.shape
    targets, outgoing = np.empty(k, np.int32), np.empty(k, np.float32)
    for i in range(n):
        n_out = _sort_list(ids[i], weights[i], targets, outgoing)
        a, b = 0, offsets[i]
        for e in range(indptr[i], indptr[i + 1]):
            has_out = a < n_out and (b == offsets[i + 1] or targets[a] <= sources[b])
            has_in = b < offsets[i + 1] and (a == n_out or sources[b] <= targets[a])
            out_weight = outgoing[a] if has_out else np.float32(0)
            indices[e] = targets[a] if has_out else sources[b]
            sums[e] = out_weight + (incoming_weights[b] if has_in else np.float32(0))
            if conditional_p.shape[0]:
                conditional_p[e] = out_weight
            a += has_out
            b += has_in
