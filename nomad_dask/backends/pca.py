"""Principal axes of a sample by subspace iteration, written once for NumPy and CuPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nomad_dask.backends.data import PrincipalAxes

_OVERSAMPLING = 8
_N_ITERATIONS = 4
_MEDIAN_ROWS = 2000
# Rows whose distance from the median is above this quantile are moved to it, so that a few rows at 1e6 do not
# determine the axes.
_CLIP_QUANTILE = 0.98
_TINY = 1e-30


class ArrayTransfer(Protocol):
    """An array module, and the copies between it and the host."""

    xp: Any

    def upload(self, array: np.ndarray) -> Any:
        """Return an array on the device."""

    def download(self, array: Any) -> np.ndarray:
        """Return an array on the host."""


def fit_axes(
    sample: np.ndarray, n_axes: int, seed: int, arrays: ArrayTransfer, squared_norms: Callable[[Any], Any]
) -> PrincipalAxes:
    """Return the leading principal axes of a sample; axes without any variance are zeros.

    Subspace iteration (Halko, Martinsson, Tropp, SIAM Review 53, 2011, algorithm 4.4) on the sample itself: a full
    decomposition of the covariance would cost n_dims³.

    Parameters
    ----------
    sample : ndarray of float32 (rows, n_dims)
        On the host.
    n_axes : int
    seed : int
    arrays : ArrayTransfer
        Where to compute.
    squared_norms : callable
        Returns the squared norm (rows,) of each row of a device array.
    """
    xp = arrays.xp
    n, d = sample.shape
    median = np.median(sample[:: max(1, n // _MEDIAN_ROWS)], axis=0).astype(sample.dtype)
    centered = arrays.upload(sample) - arrays.upload(median)
    lengths = arrays.download(xp.sqrt(squared_norms(centered)))
    cap = max(float(np.quantile(lengths, _CLIP_QUANTILE)), _TINY)
    factors = np.minimum(cap / np.maximum(lengths, _TINY), 1).astype(np.float32)
    centered *= arrays.upload(factors)[:, None]
    shift = centered.mean(axis=0)
    centered -= shift
    start = np.random.default_rng(seed).standard_normal((d, min(d, n_axes + _OVERSAMPLING))).astype(np.float32)
    basis = arrays.upload(start)
    for _ in range(_N_ITERATIONS):
        basis = xp.linalg.qr(basis)[0]
        basis = centered.T @ (centered @ basis)
    basis = xp.linalg.qr(basis)[0]
    factors_of_svd = xp.linalg.svd(centered @ basis, full_matrices=False)
    _, singular_values, rotation = (arrays.download(factor) for factor in factors_of_svd)
    components = _fix_signs((arrays.download(basis) @ rotation.T).T[:n_axes])
    if len(components) < n_axes:  # fewer dimensions or rows than axes: no variance along the rest
        components = np.vstack([components, np.zeros((n_axes - len(components), d))])
    std = float(singular_values[0] / np.sqrt(max(n - 1, 1))) if len(singular_values) else 0.0
    mean = (median + arrays.download(shift)).astype(np.float32)
    return PrincipalAxes(mean, np.ascontiguousarray(components, np.float32), std)


def _fix_signs(components: np.ndarray) -> np.ndarray:
    """Return the axes with the sign that makes the largest entry of each positive."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    fixed: np.ndarray = components * np.where(signs == 0, 1, signs)[:, None]
    return fixed
