"""The quadtree: which tile holds which rows, for more rows than memory holds.

Every row goes to the first tile on its way down that has room, in the order of `places.priority`. So a tile
holds a fair sample of what its quad has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nomad_dask.site.quantize import DEEPEST, GRID_BITS, INNER_BITS, inner_bits, priority

# Levels that rows fall through at once on their way to files: 4**4 files are open at a time.
_FAN_LEVELS = 4
_BATCH_ROWS = 1 << 18


class Quad(NamedTuple):
    """A square of the map: level, and place from the left and from below."""

    z: int
    x: int
    y: int

    def below(self, levels: int, place: int) -> Quad:
        """Return a quad `levels` down; `place` counts them from the lower left, row by row."""
        return Quad(
            self.z + levels,
            (self.x << levels) + (place & ((1 << levels) - 1)),
            (self.y << levels) + (place >> levels),
        )

    def inside(self, steps: np.ndarray) -> np.ndarray:
        """Return coordinates (n,) on the grid inside this quad, in the type that its bits take."""
        bits = inner_bits(self.z)
        kind = np.uint16 if bits == INNER_BITS else np.uint32
        return np.asarray((steps >> np.uint64(GRID_BITS - self.z - bits)) & np.uint64((1 << bits) - 1)).astype(kind)

    def places(self, rows: np.ndarray, levels: int) -> np.ndarray:
        """Return for rows (n,) of this quad which of the quads `levels` down they lie in (n,)."""
        shift = np.uint64(GRID_BITS - self.z - levels)
        x = (rows["x"] >> shift).astype(np.int64) - (self.x << levels)
        y = (rows["y"] >> shift).astype(np.int64) - (self.y << levels)
        return np.asarray((y << levels) | x)


@dataclass(frozen=True)
class Tile:
    """A tile and its rows in order of priority, in one array or, if they are very many, in several."""

    quad: Quad
    n: int
    rows: Iterator[np.ndarray] | Sequence[np.ndarray]


@dataclass(frozen=True)
class RowStream:
    """Rows of a quad that can be read again and again.

    Attributes
    ----------
    n : int
    dtype : dtype
        As `row_type` makes it.
    read : callable
        Yields them in arrays of any length.
    """

    n: int
    dtype: np.dtype[Any]
    read: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def of_file(cls, path: Path, dtype: np.dtype[Any], n: int) -> RowStream:
        """Return the rows that were appended to a file."""

        def read() -> Iterator[np.ndarray]:
            with path.open("rb") as file:
                while len(rows := np.fromfile(file, dtype, _BATCH_ROWS)):
                    yield rows

        return cls(n, dtype, read)


def row_type(more: Sequence[tuple[str, np.dtype[Any]]]) -> np.dtype[Any]:
    """Return the type of a row: its number, its place on the grid, and further fields."""
    return np.dtype([("row", np.uint32), ("x", np.uint64), ("y", np.uint64), *more])


def tiles(stock: RowStream, quad: Quad, tile_rows: int, scratch: Path, memory_rows: int) -> Iterator[Tile]:
    """Yield the tiles of a quad and of all below it.

    Parameters
    ----------
    stock : Stock
        All rows of the quad that no tile above holds.
    quad : Quad
    tile_rows : int
        Rows of a tile; at the deepest level there may be more.
    scratch : Path
        Directory for files, which are removed again.
    memory_rows : int
        Rows to hold in memory.
    """
    if stock.n <= memory_rows:
        rows = np.concatenate(list(stock.read()))
        yield from _in_memory(_in_order(rows), quad, tile_rows)
    elif quad.z == DEEPEST:
        yield Tile(quad, stock.n, _parts_in_order(stock, memory_rows))
    else:
        levels = min(_FAN_LEVELS, DEEPEST - quad.z)
        upper = [_Level(quad, level, tile_rows) for level in range(levels)]
        stocks = _fan_out(stock, quad, upper, scratch)
        while upper:
            # Gone before the levels below need as much memory.
            yield from upper.pop(0).tiles()
        for place, below in stocks.items():
            yield from tiles(below, quad.below(levels, place), tile_rows, scratch, memory_rows)
            _file(scratch, quad, place).unlink()


def _in_order(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[np.argsort(priority(rows["row"]))])


def _in_memory(rows: np.ndarray, quad: Quad, tile_rows: int) -> Iterator[Tile]:
    """Yield the tiles of rows that are in order of priority."""
    left = [(quad, rows)]
    while left:
        quad, rows = left.pop()
        n = len(rows) if quad.z == DEEPEST else min(tile_rows, len(rows))
        yield Tile(quad, n, [rows[:n]])
        if n == len(rows):
            continue
        rows = rows[n:]
        places = quad.places(rows, 1).astype(np.uint8)
        rows = rows[np.argsort(places, kind="stable")]
        ends = np.cumsum(np.bincount(places, minlength=4))
        for place in range(4):
            start, end = ends[place - 1] if place else 0, ends[place]
            if start < end:
                left.append((quad.below(1, place), rows[start:end]))


def _parts_in_order(stock: RowStream, memory_rows: int) -> Iterator[np.ndarray]:
    """Yield rows in order of priority, a part of it at a time; each part reads all of them."""
    parts = -(-2 * stock.n // memory_rows)
    edges = np.linspace(0, 2**32, parts + 1).astype(np.uint64)
    for low, high in pairwise(edges):
        taken = []
        for rows in stock.read():
            order = priority(rows["row"])
            taken.append(rows[(order >= low) & (order < high)])
        yield _in_order(np.concatenate(taken))


class _Level:
    """The tiles of one level while rows fall through: each holds the best of what came by.

    Parameters
    ----------
    quad : Quad
        Holds all tiles.
    level : int
        Counted from that quad.
    tile_rows : int
    """

    def __init__(self, quad: Quad, level: int, tile_rows: int) -> None:
        self._quad, self._level, self._tile_rows = quad, level, tile_rows
        self._held: dict[int, np.ndarray] = {}
        # The priority from which on a row falls through.
        self._full_from = np.full(4**level, 2**32, np.int64)

    def sift(self, rows: np.ndarray) -> np.ndarray:
        """Take what belongs to this level and return what falls through."""
        places = self._quad.places(rows, self._level)
        stays = priority(rows["row"]) < self._full_from[places]
        fallen = [rows[~stays]]
        for place, group in _groups(rows[stays], places[stays]):
            held = np.concatenate([self._held[place], group]) if place in self._held else group
            if len(held) >= self._tile_rows:
                order = priority(held["row"])
                best = np.argpartition(order, self._tile_rows - 1)
                fallen.append(held[best[self._tile_rows :]])
                best = best[: self._tile_rows]
                held = held[best]
                self._full_from[place] = order[best].max()
            self._held[place] = held
        return np.concatenate(fallen)

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles."""
        for place in sorted(self._held):
            rows = _in_order(self._held.pop(place))
            yield Tile(self._quad.below(self._level, place), len(rows), [rows])


def _groups(rows: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of each place that has any."""
    order = np.argsort(places, kind="stable")
    rows, places = rows[order], places[order]
    edges = np.append(np.flatnonzero(np.diff(places, prepend=-1)), len(rows))
    for start, end in pairwise(edges):
        yield int(places[start]), rows[start:end]


def _fan_out(stock: RowStream, quad: Quad, upper: list[_Level], scratch: Path) -> dict[int, RowStream]:
    """Let rows fall through some levels, and append those that do to a file for each quad below."""
    counts: dict[int, int] = {}
    with ExitStack() as opened:
        files: dict[int, Any] = {}
        for rows in stock.read():
            for level in upper:
                rows = level.sift(rows)
            for place, group in _groups(rows, quad.places(rows, len(upper))):
                if place not in files:
                    files[place] = opened.enter_context(_file(scratch, quad, place).open("wb"))
                files[place].write(group.data)
                counts[place] = counts.get(place, 0) + len(group)
    return {
        place: RowStream.of_file(_file(scratch, quad, place), stock.dtype, counts[place]) for place in sorted(counts)
    }


def _file(scratch: Path, quad: Quad, place: int) -> Path:
    return scratch / f"{quad.z}-{quad.x}-{quad.y}.{place}.rows"
