"""The graph in the format of the kernels: 8 bytes per edge, and an even number of edges per row.

A thread loads two edges of a row at once. A row with an odd number of edges is padded: its last target is repeated,
with weight 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PackedEdges(NamedTuple):
    """A CSR matrix in the format of the kernels.

    Attributes
    ----------
    ptr : ndarray of int64 (rows + 1,)
        The edges of row i are ``ptr[i]`` to ``ptr[i + 1]``; both are even.
    edges : ndarray of uint32 (ptr[-1], 2)
        Target, and the bits of the float32 weight.
    """

    ptr: np.ndarray
    edges: np.ndarray


def pack(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> PackedEdges:
    """Return the packed edges of a CSR matrix.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    indices : ndarray of int32 (e,)
        Targets: rows or patches.
    weights : ndarray of float32 (e,)
    """
    ptr, real, padding = _packed_positions(indptr)
    edges = np.empty((ptr[-1], 2), np.uint32)
    edges[real, 0] = indices
    edges[real, 1] = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    edges[padding, 0] = edges[padding - 1, 0]
    edges[padding, 1] = 0
    return PackedEdges(ptr, edges)


def pack_values(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values of the edges, such as p(j|i), in the order of `pack`.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    values : ndarray of float32 (e,)

    Returns
    -------
    ndarray of float32 (ptr[-1],)
        0 for padding.
    """
    ptr, real, padding = _packed_positions(indptr)
    packed = np.empty(ptr[-1], np.float32)
    packed[real] = values
    packed[padding] = 0
    return packed


def count_packed(indptr: np.ndarray) -> int:
    """Return the number of packed edges of a CSR matrix, including padding."""
    return int(indptr[-1]) + int(np.count_nonzero(np.diff(indptr) % 2))


def _packed_positions(indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `ptr`, a mask (ptr[-1],) of the packed edges that are not padding, and the positions of the padding."""
    counts = np.diff(indptr)
    odd = counts % 2
    ptr = np.zeros(len(indptr), np.int64)
    np.cumsum(counts + odd, out=ptr[1:])
    padding = ptr[1:][odd == 1] - 1
    real = np.ones(ptr[-1], np.bool_)
    real[padding] = False
    return ptr, real, padding
