"""The state of the other shards on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.data import RemoteState
from nomad_dask.backends.gpu.runtime import Runtime


class RemoteArrays:
    """Device copies of the arrays of a `RemoteState`.

    Parameters
    ----------
    dim : int
    runtime : Runtime

    Attributes
    ----------
    moments : array of float32 (patches of all shards, dim + 1)
    counts : array of float32 (patches of all shards,)
    points : array of float32 (m, dim)
    weights : array of float32 (m,)
    bounds : ndarray of float32 (2, dim) or (0, dim)
        Corners of the bounding box of `points`, on the host; empty if there are none.
    total_weight : float
    version : int
        Increases when an array is reallocated, which invalidates captured launches.
    """

    def __init__(self, dim: int, runtime: Runtime) -> None:
        self._dim = dim
        self._runtime = runtime
        self._state: RemoteState | None = None
        self.moments: Any = None
        self.counts: Any = None
        self.points: Any = None
        self.weights: Any = None
        self.bounds = np.empty((0, dim), np.float32)
        self.total_weight = 0.0
        self.version = 0

    def update(self, state: RemoteState) -> None:
        """Upload a state, unless it is the current one; arrays of unchanged shape are overwritten in place."""
        if state is self._state:
            return
        points, weights = np.asarray(state.points, np.float32), np.asarray(state.weights, np.float32)
        self.moments = self._upload(self.moments, state.patch_moments)
        self.counts = self._upload(self.counts, state.patch_counts)
        self.points = self._upload(self.points, points)
        self.weights = self._upload(self.weights, weights)
        corners = [[axis.min(), axis.max()] for axis in points.T] if len(points) else [[]] * self._dim
        self.bounds = np.array(corners, np.float32).T
        self.total_weight = float(weights.sum(dtype=np.float64))
        self._state = state

    def _upload(self, current: Any, array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array, np.float32)
        if current is not None and current.shape == array.shape:
            self._runtime.upload_into(current, array)
            return current
        self.version += 1
        return self._runtime.upload(array)
