"""Where rows lie on the grid below all tiles, and which of them come first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.site.map_reader import MapFile

# Zoom levels, and bits of a coordinate inside a tile.
LEVELS = 24
DEEPEST = LEVELS - 1
INNER_BITS = 16
GRID_BITS = DEEPEST + INNER_BITS
# Bits of a coordinate of the whole square that all tiles have at least. So the few tiles of the first levels have more
# than `INNER_BITS`: their points are looked at from as near as all others.
LEAST_BITS = 20


def inner_bits(level: int) -> int:
    """Return the bits of a coordinate inside a tile."""
    return max(INNER_BITS, LEAST_BITS - level)


@dataclass(frozen=True)
class Extent:
    """The square that holds all points.

    Attributes
    ----------
    x, y : float
        Its lower left corner.
    side : float
    """

    x: float
    y: float
    side: float

    def grid(self, values: np.ndarray, origin: float) -> np.ndarray:
        """Return coordinates (n,) along one axis on the grid of 2**39 steps, as uint64."""
        steps = (values.astype(np.float64) - origin) / self.side * 2.0**GRID_BITS
        return np.asarray(np.clip(steps, 0, 2.0**GRID_BITS - 1).astype(np.uint64))

    def as_list(self) -> list[float]:
        """Return the corners: left, bottom, right, top."""
        return [self.x, self.y, self.x + self.side, self.y + self.side]


def extent_of(file: MapFile, advance: Callable[[int], None] = lambda done: None) -> Extent:
    """Return the square around all points of a map.

    Parameters
    ----------
    file : MapFile
    advance : callable
        Told the rows read so far.

    Raises
    ------
    InputError
        A position is not finite, or they are too far apart.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    start = 0
    for batch in file.batches(["x", "y"]):
        places = np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in ("x", "y")]).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(places).all(axis=0))
        if bad.size:
            name = "y" if np.isfinite(places[0, bad[0]]) else "x"
            value = batch.column(name)[int(bad[0])].as_py()
            what = "nothing" if value is None else value
            raise InputError(
                f"Row {start + bad[0]:,} of {str(file.path)!r} has {name} = {what}, the first that is not finite: a "
                "point needs a place. Leave such rows out of the map."
            )
        low, high = np.minimum(low, places.min(axis=1)), np.maximum(high, places.max(axis=1))
        start += batch.num_rows
        advance(start)
    with np.errstate(over="ignore"):
        side = float((high - low).max())
    if not np.isfinite(side * 2):
        raise InputError(f"The points of {str(file.path)!r} are {side} apart: scale them down.")
    # A square that floating point can divide 2**39 times, also around points that are all equal.
    side = max(side, float(np.abs([low, high]).max()) * 2.0**-20 if side == 0 else side) or 1.0
    middle = low + (high - low) / 2
    corner = np.minimum(middle - side / 2, low)
    return Extent(float(corner[0]), float(corner[1]), side)


def priority(rows: np.ndarray) -> np.ndarray:
    """Return a random but fixed priority (n,) uint32 of each row number (n,); the lowest comes first.

    Distinct rows have distinct priorities: every step can be undone. (lowbias32 of github.com/skeeto/hash-prospector)
    """
    h = rows.astype(np.uint32) + np.uint32(0x9E3779B9)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h
