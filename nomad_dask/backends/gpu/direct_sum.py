"""The field as a sum over all pairs: exact, and faster than a mesh for few points far apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.mesh import DIRECT_PAIRS

_SECONDS_PER_PAIR = 1e-12
# Per node of the padded mesh: two transforms, and the kernels between them.
_SECONDS_PER_NODE = 3e-11


def prefers_direct_sum(n_points: int, n_charges: int, n_padded: int) -> bool:
    """Return whether the direct sum is preferable to a mesh.

    It is for few pairs, because it is exact, and where it is estimated to be faster: sparse maps in three
    dimensions have far more nodes than points.

    Parameters
    ----------
    n_points, n_charges : int
        Rows of the shard, and all charges, including these rows.
    n_padded : int
        Nodes of the padded mesh.
    """
    pairs = n_points * n_charges
    return pairs <= DIRECT_PAIRS or pairs * _SECONDS_PER_PAIR < n_padded * _SECONDS_PER_NODE


class DirectSum:
    """Sums over all pairs of points and charges.

    Parameters
    ----------
    dim : int
    runtime : Runtime
    """

    def __init__(self, dim: int, runtime: Runtime) -> None:
        self._dim = dim
        self._runtime = runtime
        self._charges: Any = None
        self._weights: Any = None

    def evaluate(
        self, points: Any, weights: Any, remote: Any, remote_weights: Any, potential: Any, repulsion: Any
    ) -> None:
        """Write U (n,) and R = −½∇U (n, dim) at the points; other arguments as in `MeshField.solve`."""
        n, m = len(points), len(points) + len(remote)
        if self._charges is None or len(self._charges) != m:
            self._charges = self._runtime.xp.zeros((m, self._dim), np.float32)
            self._weights = self._runtime.xp.zeros(m, np.float32)
        self._charges[:n] = points
        self._weights[:n] = np.float32(1) if weights is None else weights
        if m > n:
            self._charges[n:] = remote
            self._weights[n:] = remote_weights
        self._runtime.launch(
            "direct", self._dim, n, points, np.int64(n), self._charges, self._weights, np.int64(m), potential, repulsion
        )
