"""From neighbors to the graph of attraction: weights by rank, and symmetrization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def rank_weights(k: int, kind: str) -> np.ndarray:
    """Return the weight (k,) float64 of a neighbor by its rank, nearest first; the weights sum to 1.

    'log' 1/log2(rank+1), 'inverse' 1/rank, 'shifted-inverse' 1/(rank+4), 'softmax-inverse' the softmax of 1/rank (the
    paper), 'uniform'.
    """
    ranks = np.arange(1, k + 1)
    weights = {
        "log": 1 / np.log2(ranks + 1),
        "inverse": 1 / ranks,
        "shifted-inverse": 1 / (ranks + 4),
        "softmax-inverse": np.exp(1 / ranks),
        "uniform": np.ones(k),
    }[kind]
    return np.asarray(weights / weights.sum())


def neighbor_weights(ids: np.ndarray, kind: str) -> np.ndarray:
    """Return p(j|i) (n_rows, k) float32 of neighbors, nearest first, where -1 means none.

    See `rank_weights` for `kind`; the weights of each row are normalized over the neighbors it has.
    """
    k = ids.shape[1]
    weights = np.where(ids >= 0, rank_weights(max(k, 1), kind)[:k], 0).astype(np.float32)
    sums = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(sums > 0, sums, 1), np.float32)


def symmetric_graph(ids: np.ndarray, weights: np.ndarray, with_conditional_p: bool = True) -> Edges:
    """Return the symmetric graph of directed edges.

    Parameters
    ----------
    ids : ndarray of int32 (n_rows, k)
        Neighbors; -1 for none.
    weights : ndarray of float32 (n_rows, k)
        p(j|i) of each.
    with_conditional_p : bool
        Whether to return p(j|i) besides the sum of both directions, at twice the memory.
    """
    import scipy.sparse as sp

    n = len(ids)
    is_edge = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(is_edge.sum(axis=1))])
    # Both directions in one matrix: the real part is p(j|i), the imaginary part p(i|j).
    dtype, rotation = (np.complex64, np.complex64(1j)) if with_conditional_p else (np.float32, np.float32(1))
    directed = sp.csr_array((weights[is_edge].astype(dtype, copy=False), ids[is_edge], indptr), shape=(n, n))
    transposed = directed.T.tocsr()
    transposed.data *= rotation
    both = directed + transposed
    del directed, transposed
    both.sort_indices()
    return Edges(
        both.indptr.astype(np.int64),
        both.indices.astype(np.int32, copy=False),
        both.data.real + both.data.imag if with_conditional_p else both.data,
        both.data.real.copy() if with_conditional_p else None,
    )
