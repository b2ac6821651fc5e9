"""Principal axes of a sample by subspace iteration."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.base import PrincipalAxes

_OVERSAMPLING = 8
_ROUNDS = 4
_MEDIAN_ROWS = 2000
# Rows beyond this quantile of the distance from the median are pulled in to it, so that a few rows at
# 1e6 do not decide the axes.
_CLIP_QUANTILE = 0.98


def fit_axes(sample: np.ndarray, n_axes: int, seed: int) -> PrincipalAxes:
    """Return the leading axes of a sample; directions without any spread are filled up at random.

    Subspace iteration (Halko, Martinsson, Tropp 2011) on the sample itself: a full decomposition of the
    covariance would cost n_dims³.

    Parameters
    ----------
    sample : ndarray of float32 (rows, n_dims)
    n_axes : int
    seed : int
    """
    n, d = sample.shape
    rng = np.random.default_rng(seed)
    centered = sample - np.median(sample[:: max(1, n // _MEDIAN_ROWS)], axis=0)
    lengths = np.sqrt(np.einsum("ij,ij->i", centered, centered))
    cap = max(float(np.quantile(lengths, _CLIP_QUANTILE)), 1e-30)
    far = lengths > cap
    centered[far] *= (cap / lengths[far])[:, None]
    shift = centered.mean(axis=0)
    mean = np.median(sample[:: max(1, n // _MEDIAN_ROWS)], axis=0) + shift
    centered -= shift
    basis = rng.standard_normal((d, min(d, n_axes + _OVERSAMPLING))).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(basis)[0]
        basis = centered.T @ (centered @ basis)
    basis = np.linalg.qr(basis)[0]
    _, widths, turn = np.linalg.svd(centered @ basis, full_matrices=False)
    components = (basis @ turn.T).T[:n_axes]
    # Of the two signs of an axis take the one that makes its largest entry positive.
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    components = components * np.where(signs == 0, 1, signs)[:, None]
    if len(components) < n_axes:  # fewer dimensions or rows than axes: no spread along the rest
        components = np.vstack([components, np.zeros((n_axes - len(components), d))])
    std = float(widths[0] / np.sqrt(max(n - 1, 1))) if len(widths) else 0.0
    return PrincipalAxes(mean.astype(np.float32), np.ascontiguousarray(components, np.float32), std)


def project(rows: np.ndarray, axes: PrincipalAxes) -> np.ndarray:
    """Return coordinates (rows, n_axes) float32 along the axes."""
    coordinates = rows.astype(np.float32, copy=False) @ axes.components.T - axes.mean @ axes.components.T
    return np.asarray(coordinates, np.float32)
