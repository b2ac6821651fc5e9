"""The edges of a graph on the device, as they are in its files: 5 bytes per edge whose weight is a code.

A thread loads four edges at once, from a multiple of four on, and leaves out those of other rows. So rows need no
padding, but the arrays have a multiple of four of edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime

_EDGES_AT_ONCE = 4


class DeviceEdges(NamedTuple):
    """A CSR matrix in the format of the kernels; further edges at the end of the arrays are of no row.

    Attributes
    ----------
    ptr : array of int64 (rows + 1,)
        The edges of row i are ``ptr[i]`` to ``ptr[i + 1]``.
    targets : array of int32 (e,)
        Rows or patches.
    weights : array of float32 (e,) or (n_levels,)
        Of each edge, or of each code.
    codes : array of uint8 (e,) or None
        The weight of edge e is ``weights[codes[e]]``.
    """

    ptr: Any
    targets: Any
    weights: Any
    codes: Any | None

    @classmethod
    def upload(
        cls, indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, codes: np.ndarray | None, runtime: Runtime
    ) -> DeviceEdges:
        """Copy a CSR matrix to the device."""
        return cls(
            ptr=runtime.upload(indptr),
            targets=upload_values(indices, np.int32, runtime),
            weights=upload_values(weights, np.float32, runtime),
            codes=None if codes is None else upload_values(codes, np.uint8, runtime),
        )


def upload_values(values: np.ndarray, dtype: Any, runtime: Runtime) -> Any:
    """Return values (e,) of edges on the device, followed by zeros, without waiting for the copy."""
    n = len(values)
    uploaded = runtime.xp.zeros(-(-n // _EDGES_AT_ONCE) * _EDGES_AT_ONCE, dtype)
    if n:
        runtime.upload_into(uploaded[:n], np.ascontiguousarray(values, dtype))
    return uploaded
