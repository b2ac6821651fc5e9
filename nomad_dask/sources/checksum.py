"""Checksums of rows, which tell whether a computation gives the same rows again."""

from __future__ import annotations

from typing import Any

import numpy as np

# Memory for the products of a device.
_CHUNK_BYTES = 32 << 20


def rows_checksum(rows: Any) -> int:
    """Return a checksum of the bytes of rows and of their order.

    Parameters
    ----------
    rows : array (n, n_dims)
        C-contiguous, in host memory or on a device: equal rows have equal checksums.
    """
    hashes = _row_hashes(rows)
    with np.errstate(over="ignore"):
        positions = _mix(np.arange(len(hashes), dtype=np.uint64))
        return int(_mix(hashes ^ positions).sum(dtype=np.uint64))


def _row_hashes(rows: Any) -> np.ndarray:
    """Return a hash (n,) uint64 of each row: the sum of its words, each times an odd number."""
    width = rows.shape[1] * rows.dtype.itemsize
    words = rows.view(np.dtype(f"u{next(size for size in (8, 4, 2, 1) if width % size == 0)}"))
    host_weights = _mix(np.arange(1, words.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    on_host = isinstance(words, np.ndarray)
    weights: Any = host_weights
    if not on_host:
        weights = np.empty_like(words, dtype=np.uint64, shape=host_weights.shape)
        weights.set(host_weights)
    step = max(1, _CHUNK_BYTES // (8 * words.shape[1]))
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), step):
        part = words[start : start + step].astype(np.uint64, copy=False)
        hashes[start : start + step] = part @ weights if on_host else (part * weights).sum(axis=1).get()
    return hashes


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Return numbers (uint64) whose bits all depend on all bits of the given ones (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
