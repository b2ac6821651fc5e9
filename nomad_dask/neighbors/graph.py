"""From neighbors to the graph of attraction: weights by rank, and symmetrization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends import graph_kernels as kernels
from nomad_dask.backends.base import TAIL_STRIDE


@dataclass(frozen=True)
class Edges:
    """The symmetric graph of a shard as CSR.

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
    """Return the weight (k + n_tail,) float64 of a neighbor by its rank, nearest first; the weights sum to 1.

    'log' 1/log2(rank+1), 'inverse' 1/rank, 'shifted-inverse' 1/(rank+1), 'softmax-inverse' the softmax of 1/rank
    (the paper), 'uniform'. A neighbor in the tail has the weight of all `TAIL_STRIDE` ranks for which it stands.
    """
    ranks = np.append(np.arange(1, k + 1), k + 0.5 + TAIL_STRIDE * (np.arange(n_tail) + 0.5))
    n_ranks = np.repeat([1.0, TAIL_STRIDE], [k, n_tail])
    by_rank = {
        "log": 1 / np.log2(ranks + 1),
        "inverse": 1 / ranks,
        "shifted-inverse": 1 / (ranks + 1),
        "softmax-inverse": np.exp(1 / ranks),
        "uniform": np.ones(k + n_tail),
    }[kind]
    weights = n_ranks * by_rank
    return np.asarray(weights / weights.sum())


def join_tail(ids: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return lists (n_rows, k + n_tail) followed by their tails, without what is in both; -1 means none."""
    is_listed = np.zeros(tail.shape, bool)
    for column in range(ids.shape[1]):
        is_listed |= tail == ids[:, column, None]
    return np.hstack([ids, np.where(is_listed, np.int32(-1), tail)])


def neighbor_weights(ids: np.ndarray, kind: str, n_tail: int = 0) -> np.ndarray:
    """Return p(j|i) (n_rows, k + n_tail) float32 of neighbors, nearest first, where -1 means none.

    See `rank_weights` for `kind`; the weights of each row are normalized over the neighbors it has.
    """
    k = ids.shape[1] - n_tail
    weights = np.where(ids >= 0, rank_weights(max(k, 1), kind, n_tail)[: k + n_tail], 0).astype(np.float32)
    sums = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(sums > 0, sums, 1), np.float32)


def symmetric_graph(ids: np.ndarray, weights: np.ndarray, with_conditional_p: bool = True) -> Edges:
    """Return the symmetric graph of directed edges.

    Parameters
    ----------
    ids : ndarray of int32 (n_rows, k)
        Neighbors of each row, none of them twice; -1 for none.
    weights : ndarray of float32 (n_rows, k)
        p(j|i) of each.
    with_conditional_p : bool
        Whether to return p(j|i) besides the sum of both directions, at twice the memory.
    """
    ids, weights = np.ascontiguousarray(ids, np.int32), np.ascontiguousarray(weights, np.float32)
    incoming = kernels.incoming_edges(ids, weights)
    indptr = np.concatenate([[0], np.cumsum(kernels.count_edges(ids, weights, incoming))])
    indices, sums = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    conditional_p = np.empty(indptr[-1] if with_conditional_p else 0, np.float32)
    kernels.merge_edges(ids, weights, incoming, indptr, indices, sums, conditional_p)
    return Edges(indptr, indices, sums, conditional_p if with_conditional_p else None)
