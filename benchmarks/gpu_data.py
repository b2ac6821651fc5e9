"""Rows generated on the device where they are read: a mixture with any number of rows, without a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.errors import InputError
from nomad_dask.sources.device import DeviceSource
from nomad_dask.sources.fingerprint import digest_of

# Rows generated at once: each number takes 8 bytes while it is drawn.
_PIECE_ROWS = 1 << 17
# Ratio of the spreads of consecutive axes: about ten axes matter, as in embeddings.
_DECAY = 0.9
_GROUPS = 1000


class MixtureSource(DeviceSource):
    """A mixture of bell-shaped groups of unequal weight and width; each number depends only on its row, axis and seed.

    Any range of rows is bit for bit the same on the device and on the host: numbers are drawn by a 64-bit hash and
    summed as integers.

    Parameters
    ----------
    n_rows, n_dims, n_groups, seed : int
    """

    shareable = True

    def __init__(self, n_rows: int, n_dims: int = 64, n_groups: int = _GROUPS, seed: int = 0) -> None:
        if min(n_rows, n_dims, n_groups) < 1:
            raise InputError(f"A mixture of {n_rows} rows, {n_dims} dimensions and {n_groups} groups has no numbers.")
        self.n_rows, self.n_dims, self.seed = n_rows, n_dims, seed
        self.dtype = np.dtype(np.float32)
        self.name = f"the mixture of {n_rows:,} rows"
        rng = np.random.default_rng(seed)
        decay = _DECAY ** np.arange(n_dims)
        self._centers = (2 * rng.normal(size=(n_groups, n_dims)) * decay).astype(np.float32)
        self._widths = rng.uniform(0.2, 0.8, n_groups).astype(np.float32)
        self._decay = decay.astype(np.float32)
        weights = rng.dirichlet(np.full(n_groups, 0.5))
        # A row is of the first group whose bound is above its hash of 32 bits.
        self._bounds = (np.cumsum(weights)[:-1] * 2**32).astype(np.int64)

    def fingerprint(self) -> str:
        """Return a digest of the parameters that determine the rows."""
        return digest_of(("mixture", self.n_rows, self.n_dims, len(self._widths), self.seed))

    def read_device(self, start: int, stop: int) -> Any:
        """Return rows `start` to `stop`."""
        xp = PROCESS_RUNTIME.get().xp
        out = xp.empty((stop - start, self.n_dims), np.float32)
        for first in range(start, stop, _PIECE_ROWS):
            last = min(first + _PIECE_ROWS, stop)
            out[first - start : last - start] = self._made(first, last)
        return out

    def _made(self, start: int, stop: int) -> Any:
        runtime = PROCESS_RUNTIME.get()
        xp, upload = runtime.xp, runtime.upload
        rows = xp.arange(start, stop, dtype=np.int64).astype(np.uint64)
        drawn = _mixed(rows + np.uint64(self.seed << 48 & 0xFFFF_FFFF_FFFF_FFFF))
        group = xp.searchsorted(upload(self._bounds), (drawn >> np.uint64(32)).astype(np.int64), side="right")
        axes = xp.arange(1, self.n_dims + 1, dtype=np.int64).astype(np.uint64)
        noise = _bell(_mixed(drawn[:, None] ^ axes * np.uint64(0x9E37_79B9_7F4A_7C15)))
        noise *= upload(self._decay)
        noise *= upload(self._widths)[group][:, None]
        noise += upload(self._centers)[group]
        return noise


def _mixed(h: Any) -> Any:
    """Return the hash of each element of a uint64 array (splitmix64)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return h ^ (h >> np.uint64(31))


def _bell(h: Any) -> Any:
    """Return a float32 of mean 0 and variance 1 for each element of a uint64 array: the sum of four uniform numbers."""
    low = np.uint64(0xFFFF)
    total = (h & low) + (h >> np.uint64(16) & low) + (h >> np.uint64(32) & low) + (h >> np.uint64(48))
    return (total.astype(np.float32) - np.float32(2 * 0xFFFF)) * np.float32(1 / (65536 * np.sqrt(1 / 3)))
