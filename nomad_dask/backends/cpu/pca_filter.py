"""The screen of the neighbour search: few dimensions in which most rows can be told to be far."""

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
    """Where the screen looks from.

    Attributes
    ----------
    mean : ndarray (d,) float32
        Mean of the rows.
    axes : ndarray (d, p) float32 or None
        Orthonormal axes; None takes all dimensions as they are.
    """

    mean: np.ndarray
    axes: np.ndarray | None

    @property
    def n_columns(self) -> int:
        """Columns of a screened row: its coordinates and the length of the rest."""
        return (self.mean.size if self.axes is None else self.axes.shape[1]) + 1

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (n, d) in the screen, ``(n, n_columns)`` float32."""
        screened = np.zeros((len(rows), self.n_columns), np.float32)
        if self.axes is None:
            np.subtract(rows, self.mean, out=screened[:, :-1])
            return screened
        for start in range(0, len(rows), BLOCK_ROWS):
            centred = rows[start : start + BLOCK_ROWS] - self.mean
            inside = centred @ self.axes
            rest = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", inside, inside)
            screened[start : start + BLOCK_ROWS, :-1] = inside
            screened[start : start + BLOCK_ROWS, -1] = np.sqrt(np.maximum(rest, 0))
        return screened


def principal_axes(rows: np.ndarray, n_axes: int, rng: np.random.Generator) -> np.ndarray:
    """Return orthonormal axes (d, n_axes) near the leading principal ones, by subspace iteration."""
    basis = rng.standard_normal((rows.shape[1], min(rows.shape[1], n_axes + 8))).astype(np.float32)
    for _ in range(2):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    inside = rows @ basis
    order = np.linalg.eigh((inside.T @ inside).astype(np.float64))[1][:, ::-1]
    axes = np.linalg.qr(basis @ order[:, :n_axes].astype(np.float32))[0]
    return np.ascontiguousarray(axes)


class BlockCache:
    """The screened pieces of cells used last, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the piece known by `key`, made where it is not kept."""
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
