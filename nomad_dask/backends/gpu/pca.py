"""Principal axes of a sample by subspace iteration on the device; the same steps as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.base import PrincipalAxes
from nomad_dask.backends.gpu.runtime import Runtime

_OVERSAMPLING = 8
_ROUNDS = 4
_MEDIAN_ROWS = 2000
# Rows beyond this quantile of the distance from the median are pulled in to it, so that a few rows at
# 1e6 do not decide the axes.
_CLIP_QUANTILE = 0.98
# Part of the free memory that the rows of one projection may take.
_PROJECT_SHARE = 8


def fit_axes(sample: np.ndarray, n_axes: int, seed: int, runtime: Runtime) -> PrincipalAxes:
    """Return the leading axes of a sample; directions without any spread are filled up at random.

    Parameters
    ----------
    sample : ndarray of float32 (rows, n_dims)
    n_axes : int
    seed : int
    runtime : Runtime
    """
    xp = runtime.xp
    n, d = sample.shape
    rng = np.random.default_rng(seed)
    middle = np.median(sample[:: max(1, n // _MEDIAN_ROWS)], axis=0).astype(np.float32)
    centered = runtime.upload(sample.astype(np.float32, copy=False))
    centered = centered - runtime.upload(middle)
    lengths = runtime.download(xp.sqrt((centered * centered).sum(axis=1)))
    cap = max(float(np.quantile(lengths, _CLIP_QUANTILE)), 1e-30)
    factors = np.minimum(cap / np.maximum(lengths, 1e-30), 1).astype(np.float32)
    centered *= runtime.upload(factors)[:, None]
    shift = centered.mean(axis=0)
    mean = middle + runtime.download(shift)
    centered -= shift
    basis = runtime.upload(rng.standard_normal((d, min(d, n_axes + _OVERSAMPLING))).astype(np.float32))
    for _ in range(_ROUNDS):
        basis = xp.linalg.qr(basis)[0]
        basis = centered.T @ (centered @ basis)
    basis = xp.linalg.qr(basis)[0]
    _, widths, turn = (runtime.download(a) for a in xp.linalg.svd(centered @ basis, full_matrices=False))
    components = (runtime.download(basis) @ turn.T).T[:n_axes]
    # Of the two signs of an axis take the one that makes its largest entry positive.
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    components = components * np.where(signs == 0, 1, signs)[:, None]
    if len(components) < n_axes:  # fewer dimensions or rows than axes: no spread along the rest
        components = np.vstack([components, np.zeros((n_axes - len(components), d))])
    std = float(widths[0] / np.sqrt(max(n - 1, 1))) if len(widths) else 0.0
    return PrincipalAxes(mean.astype(np.float32), np.ascontiguousarray(components, np.float32), std)


def project(rows: Any, axes: PrincipalAxes, runtime: Runtime) -> Any:
    """Return coordinates (rows, n_axes) float32 along the axes, as the kind of array that the rows are."""
    xp = runtime.xp
    components = runtime.upload(np.ascontiguousarray(axes.components.T))
    mean = runtime.upload(axes.mean)
    on_host = isinstance(rows, np.ndarray)
    out = (np if on_host else xp).empty((len(rows), len(axes.components)), np.float32)
    step = max(1, runtime.free_bytes() // _PROJECT_SHARE // (4 * max(1, sum(axes.components.shape))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float32, copy=False)
        coordinates = ((runtime.upload(block) if on_host else block) - mean) @ components
        out[start : start + step] = runtime.download(coordinates) if on_host else coordinates
    return out
