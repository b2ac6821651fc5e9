"""Principal axes, and coordinates along them, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends import pca
from nomad_dask.backends.data import PrincipalAxes
from nomad_dask.backends.gpu.runtime import Runtime

# A block of rows may use the free memory divided by this.
_FREE_DIVISOR = 8


def fit_axes(sample: np.ndarray, n_axes: int, seed: int, runtime: Runtime) -> PrincipalAxes:
    """Return the leading principal axes of a sample (rows, n_dims)."""
    return pca.fit_axes(sample.astype(np.float32, copy=False), n_axes, seed, runtime, _squared_norms)


def _squared_norms(rows: Any) -> Any:
    return (rows * rows).sum(axis=1)


def project(rows: Any, axes: PrincipalAxes, runtime: Runtime) -> Any:
    """Return coordinates (rows, n_axes) float32 along the axes, as an array of the same type as the rows."""
    xp = runtime.xp
    components = runtime.upload(np.ascontiguousarray(axes.components.T))
    mean = runtime.upload(axes.mean)
    on_host = isinstance(rows, np.ndarray)
    out = (np if on_host else xp).empty((len(rows), len(axes.components)), np.float32)
    step = max(1, runtime.free_bytes() // _FREE_DIVISOR // (4 * max(1, sum(axes.components.shape))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float32, copy=False)
        coordinates = ((runtime.upload(block) if on_host else block) - mean) @ components
        out[start : start + step] = runtime.download(coordinates) if on_host else coordinates
    return out
