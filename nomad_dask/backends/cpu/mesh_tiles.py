"""Tiles of a large mesh that cover the points of a shard.

The near part of K ends within a few nodes. So a shard, whose points lie in a part of the map, computes it only in the
tiles that contain them, whatever the size of the map; and tiles fit into a processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numba import njit

from nomad_dask.backends.cpu.fft_convolution import fast_lengths
from nomad_dask.backends.kernel_parts import BLOCK_BITS, RATIO, REACH, coarse_shape

_BLOCK = 1 << BLOCK_BITS
# Maximum number of blocks of a tile along each axis, by the dimensions.
_TILE_BLOCKS = {2: 6, 3: 3}
# A node of a tile takes less time than one of the whole mesh, which does not fit into a cache.
_NODES_OF_WHOLE = 1.5


@dataclass(frozen=True)
class Tile:
    """A box of the nodes of a mesh.

    Attributes
    ----------
    start : tuple of int
        First node.
    size : tuple of int
        Nodes along each axis.
    mesh_shape : tuple of int
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    mesh_shape: tuple[int, ...]

    @property
    def nodes(self) -> tuple[slice, ...]:
        """The part of the mesh that it covers."""
        return _slices(self.start, self.size)

    @property
    def coarse_nodes(self) -> tuple[slice, ...]:
        """The nodes of the coarse mesh whose splines reach it."""
        return _slices([start // RATIO for start in self.start], coarse_shape(self.size))

    @property
    def reach(self) -> tuple[int, ...]:
        """Width in nodes of the margin within reach, along each axis: 0 where the tile is as wide as the mesh."""
        return tuple(REACH if size < n else 0 for size, n in zip(self.size, self.mesh_shape, strict=True))

    @property
    def padded(self) -> tuple[int, ...]:
        """Nodes of a periodic mesh on which its window does not interact with itself across the edge."""
        return fast_lengths([n + max(2 * reach, REACH) for n, reach in zip(self.size, self.reach, strict=True)])

    @property
    def middle(self) -> tuple[slice, ...]:
        """The part of its window that it covers."""
        return _slices(self.reach, self.size)

    def window(self, density: np.ndarray) -> np.ndarray:
        """Return the density in the tile and its margin, with zeros outside the mesh."""
        window = np.zeros([n + 2 * reach for n, reach in zip(self.size, self.reach, strict=True)], density.dtype)
        source, target = [], []
        for start, n, reach, end in zip(self.start, self.size, self.reach, density.shape, strict=True):
            source.append(slice(max(start - reach, 0), min(start + n + reach, end)))
            target.append(slice(source[-1].start - start + reach, source[-1].stop - start + reach))
        window[tuple(target)] = density[tuple(source)]
        return window


def _slices(starts: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


@njit(nogil=True, cache=True)
def _mark_blocks(density, marks):  # type: ignore[no-untyped-def]
    for i in range(density.shape[0]):
        for j in range(density.shape[1]):
            row = marks[i >> BLOCK_BITS, j >> BLOCK_BITS]
            for block in range(row.size):
                if not row[block]:
                    for k in range(block << BLOCK_BITS, (block + 1) << BLOCK_BITS):
                        row[block] |= density[i, j, k] > 0


def occupied_blocks(density: np.ndarray) -> np.ndarray:
    """Return which blocks of a mesh contain any charge."""
    marks = np.zeros([n >> BLOCK_BITS for n in density.shape], np.bool_)
    _mark_blocks(density.reshape(-1, *density.shape[-2:]), marks.reshape(-1, *marks.shape[-2:]))
    return marks


def choose_tiles(marks: np.ndarray) -> list[Tile]:
    """Return tiles that cover all marked blocks of a mesh, and few others.

    Where many are marked, the margins of the tiles may cost more than they save: then the mesh is one tile.
    """
    shape = tuple(_BLOCK * n for n in marks.shape)
    counts = [math.ceil(n / _TILE_BLOCKS[marks.ndim]) for n in marks.shape]
    groups = np.ix_(*(np.arange(n) * count // n for n, count in zip(marks.shape, counts, strict=True)))
    labels = np.ravel_multi_index(groups, counts) + 1
    tiles = []
    for box in scipy.ndimage.find_objects(np.where(marks, labels, 0)):
        if box is not None:
            start = tuple(_BLOCK * side.start for side in box)
            size = tuple(_BLOCK * (side.stop - side.start) for side in box)
            tiles.append(Tile(start, size, shape))
    whole = Tile((0,) * marks.ndim, shape, shape)
    if sum(math.prod(tile.padded) for tile in tiles) > _NODES_OF_WHOLE * math.prod(whole.padded):
        return [whole]
    return tiles


def dilate(marks: np.ndarray) -> np.ndarray:
    """Return the marked blocks and those next to them."""
    return np.asarray(scipy.ndimage.binary_dilation(marks, np.ones([3] * marks.ndim)))
