"""The filter of the neighbor search: a few dimensions that suffice to exclude most rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 4096
"""Rows projected or scanned at a time."""


@dataclass(frozen=True)
class PcaFilter:
    """Projection to a few axes, with the length of the residual.

    Attributes
    ----------
    mean : ndarray (d,) float32
        Mean of the rows.
    axes : ndarray (d, p) float32 or None
        Orthonormal axes; None keeps all dimensions.
    """

    mean: np.ndarray
    axes: np.ndarray | None

    @property
    def n_columns(self) -> int:
        """Columns of a projected row: its coordinates and the length of its residual."""
        return (self.mean.size if self.axes is None else self.axes.shape[1]) + 1

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Return projected rows (n, n_columns) float32 of rows (n, d)."""
        projected = np.zeros((len(rows), self.n_columns), np.float32)
        if self.axes is None:
            np.subtract(rows, self.mean, out=projected[:, :-1])
            return projected
        for start in range(0, len(rows), BLOCK_ROWS):
            centered = rows[start : start + BLOCK_ROWS] - self.mean
            coordinates = centered @ self.axes
            residual = np.einsum("ij,ij->i", centered, centered) - np.einsum("ij,ij->i", coordinates, coordinates)
            projected[start : start + BLOCK_ROWS, :-1] = coordinates
            projected[start : start + BLOCK_ROWS, -1] = np.sqrt(np.maximum(residual, 0))
        return projected


def principal_axes(rows: np.ndarray, n_axes: int, rng: np.random.Generator) -> np.ndarray:
    """Return orthonormal axes (d, n_axes) close to the leading principal axes, by subspace iteration."""
    basis = rng.standard_normal((rows.shape[1], min(rows.shape[1], n_axes + 8))).astype(np.float32)
    for _ in range(2):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    coordinates = rows @ basis
    order = np.linalg.eigh((coordinates.T @ coordinates).astype(np.float64))[1][:, ::-1]
    axes = np.linalg.qr(basis @ order[:, :n_axes].astype(np.float32))[0]
    return np.ascontiguousarray(axes)


class BlockCache:
    """The most recently used blocks of projected rows, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the block of `key`; call `make` if it is not in the cache."""
        with self._lock:
            block = self._blocks.get(key)
            if block is not None:
                self._blocks.move_to_end(key)
                return block
        block = make()
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self._bytes += block.nbytes
            while self._bytes > self._max_bytes and self._blocks:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block
