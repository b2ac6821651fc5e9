"""From neighbours to the graph of attraction: weights by rank, and symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Edges:
    """The symmetric graph of a shard as CSR.

    Attributes
    ----------
    indptr, indices : ndarray of int64 (rows + 1,), int32 (edges,)
    weights : ndarray of float32 (edges,)
        a_ij = p(j|i) + p(i|j).
    conditional_p : ndarray of float32 (edges,) or None
        p(j|i), where it was asked for.
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    conditional_p: np.ndarray | None


def rank_weights(k: int, kind: str) -> np.ndarray:
    """Return the weight (k,) float64 of a neighbour by its rank, nearest first, summing to 1.

    'log' 1/log2(rank+1), 'inverse' 1/rank, 'softmax-inverse' the softmax of 1/rank (the paper), 'uniform'.
    """
    ranks = np.arange(1, k + 1)
    weights = {
        "log": 1 / np.log2(ranks + 1),
        "inverse": 1 / ranks,
        "softmax-inverse": np.exp(1 / ranks),
        "uniform": np.ones(k),
    }[kind]
    return np.asarray(weights / weights.sum())


def neighbor_weights(ids: np.ndarray, kind: str) -> np.ndarray:
    """Return p(j|i) (rows, k) float32 of the neighbours found, nearest first, -1 where none was found.

    See `rank_weights` for `kind`; renormalised over the neighbours found.
    """
    k = ids.shape[1]
    weights = np.where(ids >= 0, rank_weights(max(k, 1), kind)[:k], 0).astype(np.float32)
    sums = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(sums > 0, sums, 1), np.float32)


def symmetric_graph(ids: np.ndarray, weights: np.ndarray, with_conditional_p: bool = True) -> Edges:
    """Return the symmetric graph of directed edges.

    Parameters
    ----------
    ids : ndarray of int32 (rows, k)
        Neighbours; -1 for none.
    weights : ndarray of float32 (rows, k)
        p(j|i) of each.
    with_conditional_p : bool
        Keep p(j|i) beside the sum of both directions, at twice the memory.
    """
    import scipy.sparse as sp

    n = len(ids)
    found = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    # Both directions in one matrix: real parts are p(j|i), imaginary ones p(i|j).
    kind, turn = (np.complex64, np.complex64(1j)) if with_conditional_p else (np.float32, np.float32(1))
    one_way = sp.csr_array((weights[found].astype(kind, copy=False), ids[found], indptr), shape=(n, n))
    other_way = one_way.T.tocsr()
    other_way.data *= turn
    both = one_way + other_way
    del one_way, other_way
    both.sort_indices()
    return Edges(
        both.indptr.astype(np.int64),
        both.indices.astype(np.int32, copy=False),
        both.data.real + both.data.imag if with_conditional_p else both.data,
        both.data.real.copy() if with_conditional_p else None,
    )
