"""Principal axes and coordinates along them, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends import pca
from nomad_dask.backends.data import PrincipalAxes


class _HostArrays:
    """NumPy arrays, which need no transfer."""

    xp: Any = np

    def upload(self, array: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return array

    def download(self, array: np.ndarray) -> np.ndarray:
        """Return the array itself."""
        return array


def fit_axes(sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
    """Return the leading principal axes of a sample (rows, n_dims) float32."""
    return pca.fit_axes(sample, n_axes, seed, _HostArrays(), _squared_norms)


def _squared_norms(rows: np.ndarray) -> Any:
    return np.einsum("ij,ij->i", rows, rows)


def project(rows: np.ndarray, axes: PrincipalAxes) -> np.ndarray:
    """Return coordinates (rows, n_axes) float32 along the axes."""
    coordinates = rows.astype(np.float32, copy=False) @ axes.components.T - axes.mean @ axes.components.T
    return np.asarray(coordinates, np.float32)
