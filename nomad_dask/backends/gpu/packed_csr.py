"""The graph as the kernels read it: edges packed to 8 bytes, and two of them to a load.

A lane reads two edges of a row at once, so that each row's edges are padded to an even number: an odd row
names its last target again, with weight 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PackedEdges(NamedTuple):
    """A CSR matrix as the kernels read it.

    Attributes
    ----------
    ptr : ndarray of int64 (rows + 1,)
        Row i has the edges ``ptr[i]`` to ``ptr[i + 1]``, both even.
    edges : ndarray of uint32 (ptr[-1], 2)
        Target, and the bits of the weight in float32.
    """

    ptr: np.ndarray
    edges: np.ndarray


def pack(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> PackedEdges:
    """Return a CSR matrix as padded, packed edges.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    indices : ndarray of int32 (e,)
        Targets: rows, or patches.
    weights : ndarray of float32 (e,)
    """
    ptr, real, padding = _places(indptr)
    edges = np.empty((ptr[-1], 2), np.uint32)
    edges[real, 0] = indices
    edges[real, 1] = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    edges[padding, 0] = edges[padding - 1, 0]
    edges[padding, 1] = 0
    return PackedEdges(ptr, edges)


def pack_values(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values of the edges, such as p(j|i), in the places that `pack` gives them.

    Parameters
    ----------
    indptr : ndarray of int64 (rows + 1,)
    values : ndarray of float32 (e,)

    Returns
    -------
    ndarray of float32 (ptr[-1],)
        0 where an edge is padding.
    """
    ptr, real, padding = _places(indptr)
    packed = np.empty(ptr[-1], np.float32)
    packed[real] = values
    packed[padding] = 0
    return packed


def count_packed(indptr: np.ndarray) -> int:
    """Return how many edges `pack` makes of a CSR matrix, padding included."""
    return int(indptr[-1]) + int(np.count_nonzero(np.diff(indptr) % 2))


def _places(indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `ptr`, which packed edges (ptr[-1],) are real, and the places of those that are not."""
    counts = np.diff(indptr)
    odd = counts % 2
    ptr = np.zeros(len(indptr), np.int64)
    np.cumsum(counts + odd, out=ptr[1:])
    padding = ptr[1:][odd == 1] - 1
    real = np.ones(ptr[-1], np.bool_)
    real[padding] = False
    return ptr, real, padding
