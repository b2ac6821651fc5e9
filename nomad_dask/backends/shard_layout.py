"""Definitions shared by the layouts of all backends, so that their maps and losses can be compared."""

from __future__ import annotations

import math

import numpy as np

# Lower limits of a row's Z_i and of Z, and of a shard's part of Z, so that no division is by zero. The CUDA kernels
# repeat the values.
MIN_Z = 1e-12
MIN_SHARD_Z = 1e-9
# Maximum number of rows in which the attraction part of the loss is measured.
_MAX_LOSS_ROWS = 8192


def loss_stride(n_rows: int) -> int:
    """Return the step between the rows of a shard in which the loss is measured."""
    return max(1, math.ceil(n_rows / _MAX_LOSS_ROWS))


def invert_sampled_cells(sampled_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return as CSR, for each cell, which cells sample it.

    Parameters
    ----------
    sampled_cells : ndarray of int64 (cells, n_sampled)
        For each cell the cells that it samples, -1 for none.

    Returns
    -------
    indptr : ndarray of int64 (cells + 1,)
    sources : ndarray of int64
        The cells that sample cell c are ``sources[indptr[c] : indptr[c + 1]]``.
    slots : ndarray of int64
        The column of `sampled_cells` in which they do.
    """
    cells, slots = np.nonzero(sampled_cells >= 0)
    targets = sampled_cells[cells, slots]
    order = np.argsort(targets, kind="stable")
    indptr = np.zeros(len(sampled_cells) + 1, np.int64)
    np.cumsum(np.bincount(targets, minlength=len(sampled_cells)), out=indptr[1:])
    return indptr, cells[order].astype(np.int64), slots[order].astype(np.int64)
