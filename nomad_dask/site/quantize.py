"""Positions on the integer grid of all tiles, and the order in which rows fill the tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.site.map_reader import MapFile, as_numbers

# Zoom levels, and bits of a coordinate inside a tile.
LEVELS = 24
MAX_LEVEL = LEVELS - 1
INNER_BITS = 16
GRID_BITS = MAX_LEVEL + INNER_BITS
# Minimum precision of a coordinate, in bits of the whole square. The few tiles of the first levels need more than
# `INNER_BITS` for it, because the page shows their points at every zoom.
MIN_BITS = 20


def inner_bits(level: int) -> int:
    """Return the bits of a coordinate inside a tile."""
    return max(INNER_BITS, MIN_BITS - level)


@dataclass(frozen=True)
class Extent:
    """The square around all points.

    Attributes
    ----------
    x, y : float
        Its lower left corner.
    side : float
        Length of its sides.
    """

    x: float
    y: float
    side: float

    def grid(self, values: np.ndarray, origin: float) -> np.ndarray:
        """Return coordinates (n,) along one axis as steps of the grid of 2**39 steps, uint64."""
        steps = (values.astype(np.float64) - origin) / self.side * 2.0**GRID_BITS
        return np.asarray(np.clip(steps, 0, 2.0**GRID_BITS - 1).astype(np.uint64))

    def as_list(self) -> list[float]:
        """Return the corners: left, bottom, right, top."""
        return [self.x, self.y, self.x + self.side, self.y + self.side]


def find_extent(file: MapFile, on_progress: Callable[[int], None] = lambda done: None) -> Extent:
    """Return the square around all points of a map.

    Parameters
    ----------
    file : MapFile
    on_progress : callable
        Called with the number of rows read so far.

    Raises
    ------
    InputError
        A position is not finite, or the points are too far apart.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    start = 0
    for batch in file.batches(file.axes):
        positions = np.stack([as_numbers(batch.column(name)) for name in file.axes])
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=0))
        if bad.size:
            name = file.axes[int(np.isfinite(positions[0, bad[0]]))]
            value = batch.column(name)[int(bad[0])].as_py()
            text = "null" if value is None else value
            raise InputError(
                f"Row {start + bad[0]:,} of {str(file.path)!r} is the first without a finite position, "
                f"{name} = {text}: remove such rows from the map."
            )
        low, high = np.minimum(low, positions.min(axis=1)), np.maximum(high, positions.max(axis=1))
        start += batch.num_rows
        on_progress(start)
    with np.errstate(over="ignore"):
        side = float((high - low).max())
    if not np.isfinite(side * 2):
        raise InputError(f"The points of {str(file.path)!r} are {side} apart, which is too far: scale them down.")
    # Floating point can divide this square into 2**39 steps, even around points that are all equal.
    side = max(side, float(np.abs([low, high]).max()) * 2.0**-20 if side == 0 else side) or 1.0
    middle = low + (high - low) / 2
    corner = np.minimum(middle - side / 2, low)
    return Extent(float(corner[0]), float(corner[1]), side)


def priority(rows: np.ndarray) -> np.ndarray:
    """Return a random but fixed priority (n,) uint32 of each row number (n,); the lowest comes first.

    Different rows have different priorities, because every step is invertible (lowbias32 of
    github.com/skeeto/hash-prospector).
    """
    h = rows.astype(np.uint32) + np.uint32(0x9E3779B9)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h
