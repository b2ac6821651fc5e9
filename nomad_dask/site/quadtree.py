"""The quadtree: assigns rows to tiles, for more rows than fit in memory.

In the order of `quantize.priority`, every row goes to the first tile on its way down that is not full. So a tile holds
a random sample of the rows of its quad that are in no tile above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nomad_dask.site.quantize import GRID_BITS, INNER_BITS, MAX_LEVEL, inner_bits, priority

# Levels in one pass over the rows, after which they are written to up to 4**4 files.
_FAN_OUT_LEVELS = 4
_BATCH_ROWS = 1 << 18


class Quad(NamedTuple):
    """A square of the map: its level, and its column from the left and row from the bottom."""

    z: int
    x: int
    y: int

    def descendant(self, levels: int, index: int) -> Quad:
        """Return a quad `levels` down; `index` counts them row by row from the lower left."""
        return Quad(
            self.z + levels,
            (self.x << levels) + (index & ((1 << levels) - 1)),
            (self.y << levels) + (index >> levels),
        )

    def inside(self, steps: np.ndarray) -> np.ndarray:
        """Return grid coordinates (n,) relative to this quad, in the smallest suitable integer type."""
        bits = inner_bits(self.z)
        kind = np.uint16 if bits == INNER_BITS else np.uint32
        return np.asarray((steps >> np.uint64(GRID_BITS - self.z - bits)) & np.uint64((1 << bits) - 1)).astype(kind)

    def descendant_indices(self, rows: np.ndarray, levels: int) -> np.ndarray:
        """Return for rows (n,) of this quad the index of their quad `levels` down (n,)."""
        shift = np.uint64(GRID_BITS - self.z - levels)
        x = (rows["x"] >> shift).astype(np.int64) - (self.x << levels)
        y = (rows["y"] >> shift).astype(np.int64) - (self.y << levels)
        return np.asarray((y << levels) | x)


@dataclass(frozen=True)
class Tile:
    """A tile and its rows in order of priority, in one array, or in several if there are too many."""

    quad: Quad
    n: int
    rows: Iterator[np.ndarray] | Sequence[np.ndarray]


@dataclass(frozen=True)
class RowStream:
    """Rows of a quad that can be read several times.

    Attributes
    ----------
    n : int
    dtype : dtype
        Type of a row, from `row_type`.
    read : callable
        Yields the rows in arrays of any length.
    """

    n: int
    dtype: np.dtype[Any]
    read: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def from_file(cls, path: Path, dtype: np.dtype[Any], n: int) -> RowStream:
        """Return the rows in a file."""

        def read() -> Iterator[np.ndarray]:
            with path.open("rb") as file:
                while len(rows := np.fromfile(file, dtype, _BATCH_ROWS)):
                    yield rows

        return cls(n, dtype, read)


def row_type(extra_fields: Sequence[tuple[str, np.dtype[Any]]]) -> np.dtype[Any]:
    """Return the type of a row: its number, its position on the grid, and other fields."""
    return np.dtype([("row", np.uint32), ("x", np.uint64), ("y", np.uint64), *extra_fields])


def build_tiles(stream: RowStream, quad: Quad, tile_rows: int, scratch: Path, memory_rows: int) -> Iterator[Tile]:
    """Yield the tiles of a quad and of all below it.

    Parameters
    ----------
    stream : RowStream
        All rows of the quad that are in no tile above.
    quad : Quad
    tile_rows : int
        Maximum number of rows of a tile; a tile at the last level may have more.
    scratch : Path
        Directory for temporary files.
    memory_rows : int
        Maximum number of rows in memory.
    """
    if stream.n <= memory_rows:
        rows = np.concatenate(list(stream.read()))
        yield from _build_in_memory(_sort_by_priority(rows), quad, tile_rows)
    elif quad.z == MAX_LEVEL:
        yield Tile(quad, stream.n, _read_in_order(stream, memory_rows))
    else:
        levels = min(_FAN_OUT_LEVELS, MAX_LEVEL - quad.z)
        upper = [_Level(quad, level, tile_rows) for level in range(levels)]
        streams = _fan_out(stream, quad, upper, scratch)
        while upper:
            # Freed before the levels below need as much memory.
            yield from upper.pop(0).tiles()
        for index, rest in streams.items():
            yield from build_tiles(rest, quad.descendant(levels, index), tile_rows, scratch, memory_rows)
            _file(scratch, quad, index).unlink()


def _sort_by_priority(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[np.argsort(priority(rows["row"]))])


def _build_in_memory(rows: np.ndarray, quad: Quad, tile_rows: int) -> Iterator[Tile]:
    """Yield the tiles of rows that are sorted by priority."""
    pending = [(quad, rows)]
    while pending:
        quad, rows = pending.pop()
        n = len(rows) if quad.z == MAX_LEVEL else min(tile_rows, len(rows))
        yield Tile(quad, n, [rows[:n]])
        if n == len(rows):
            continue
        rows = rows[n:]
        children = quad.descendant_indices(rows, 1).astype(np.uint8)
        rows = rows[np.argsort(children, kind="stable")]
        ends = np.cumsum(np.bincount(children, minlength=4))
        for child in range(4):
            start, end = ends[child - 1] if child else 0, ends[child]
            if start < end:
                pending.append((quad.descendant(1, child), rows[start:end]))


def _read_in_order(stream: RowStream, memory_rows: int) -> Iterator[np.ndarray]:
    """Yield rows in order of priority, in several passes over all rows, one for each range of priorities."""
    passes = -(-2 * stream.n // memory_rows)
    edges = np.linspace(0, 2**32, passes + 1).astype(np.uint64)
    for low, high in pairwise(edges):
        selected = []
        for rows in stream.read():
            order = priority(rows["row"])
            selected.append(rows[(order >= low) & (order < high)])
        yield _sort_by_priority(np.concatenate(selected))


class _Level:
    """The tiles of one level while rows are read: each holds the rows with the lowest priorities so far.

    Parameters
    ----------
    quad : Quad
        The quad that contains all tiles.
    level : int
        Levels below that quad.
    tile_rows : int
    """

    def __init__(self, quad: Quad, level: int, tile_rows: int) -> None:
        self._quad, self._level, self._tile_rows = quad, level, tile_rows
        self._held: dict[int, np.ndarray] = {}
        # Rows of this priority or higher go to the level below.
        self._limits = np.full(4**level, 2**32, np.int64)

    def sift(self, rows: np.ndarray) -> np.ndarray:
        """Keep the rows that belong to this level, and return the rest."""
        indices = self._quad.descendant_indices(rows, self._level)
        stays = priority(rows["row"]) < self._limits[indices]
        rest = [rows[~stays]]
        for index, group in _groups(rows[stays], indices[stays]):
            held = np.concatenate([self._held[index], group]) if index in self._held else group
            if len(held) >= self._tile_rows:
                order = priority(held["row"])
                best = np.argpartition(order, self._tile_rows - 1)
                rest.append(held[best[self._tile_rows :]])
                best = best[: self._tile_rows]
                held = held[best]
                self._limits[index] = order[best].max()
            self._held[index] = held
        return np.concatenate(rest)

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles."""
        for index in sorted(self._held):
            rows = _sort_by_priority(self._held.pop(index))
            yield Tile(self._quad.descendant(self._level, index), len(rows), [rows])


def _groups(rows: np.ndarray, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each index (n,) that occurs, with its rows."""
    order = np.argsort(indices, kind="stable")
    rows, indices = rows[order], indices[order]
    edges = np.append(np.flatnonzero(np.diff(indices, prepend=-1)), len(rows))
    for start, end in pairwise(edges):
        yield int(indices[start]), rows[start:end]


def _fan_out(stream: RowStream, quad: Quad, upper: list[_Level], scratch: Path) -> dict[int, RowStream]:
    """Pass rows through some levels, and write the rest to a file for each quad below."""
    counts: dict[int, int] = {}
    with ExitStack() as stack:
        files: dict[int, Any] = {}
        for rows in stream.read():
            for level in upper:
                rows = level.sift(rows)
            for index, group in _groups(rows, quad.descendant_indices(rows, len(upper))):
                if index not in files:
                    files[index] = stack.enter_context(_file(scratch, quad, index).open("wb"))
                files[index].write(group.data)
                counts[index] = counts.get(index, 0) + len(group)
    return {
        index: RowStream.from_file(_file(scratch, quad, index), stream.dtype, counts[index]) for index in sorted(counts)
    }


def _file(scratch: Path, quad: Quad, index: int) -> Path:
    return scratch / f"{quad.z}-{quad.x}-{quad.y}.{index}.rows"
