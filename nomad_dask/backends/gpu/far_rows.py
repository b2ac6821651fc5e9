"""Rows of other shards that attract rows of a shard, in a joint layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.joint import CrossRows


class FarRows:
    """The attracting rows, each once: to the kernels they are patches of one row, without a variance.

    Parameters
    ----------
    cross_rows : CrossRows
    n_total, dim : int
        Rows and dimensions of the whole map.
    runtime : Runtime

    Attributes
    ----------
    targets : ndarray of int32 (n_edges,)
        Which of the attracting rows each edge leads to.
    moments : array of float32 (n_far, dim + 1)
        Their positions, and zeros.
    """

    def __init__(self, cross_rows: CrossRows, n_total: int, dim: int, runtime: Runtime) -> None:
        xp = runtime.xp
        rows = runtime.upload(cross_rows.rows.astype(np.int64))
        is_far = xp.zeros(n_total, np.bool_)
        is_far[rows] = True
        self._rows = xp.flatnonzero(is_far)
        # Of each row, how many attracting rows are before it.
        n_before = xp.cumsum(is_far, dtype=np.int32) - is_far
        self.targets: np.ndarray = runtime.download(n_before[rows].astype(np.int32))
        self.moments: Any = xp.zeros((len(self._rows), dim + 1), np.float32)

    def update(self, positions: Any) -> None:
        """Take the positions from those (n_total, dim) of all rows."""
        self.moments[:, :-1] = positions[self._rows]
