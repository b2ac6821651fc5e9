"""The field on a large mesh: its far part on a coarse mesh, its near part tile by tile where there are points.

The near part ends within a few nodes. So a shard, whose points lie in a part of the map, takes only the tiles
that hold them, whatever the size of the map; and tiles fit into a processor's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from nomad_dask.backends.cpu.convolving import REACH
from nomad_dask.backends.cpu.levels import RATIO, coarse_shape
from nomad_dask.backends.mesh import Mesh

# Most nodes of a tile along each axis, by the dimensions.
_TILE_NODES = {2: 200, 3: 104}
# A node of a tile takes less time than one of a whole mesh, which does not fit into a cache.
_NODES_OF_WHOLE = 1.5


@dataclass(frozen=True)
class Tiles:
    """Equal tiles that cover a mesh.

    Attributes
    ----------
    size : tuple of int
        Nodes of a tile along each axis.
    count : tuple of int
        Tiles along each axis.
    """

    size: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes of the mesh."""
        return tuple(size * count for size, count in zip(self.size, self.count, strict=True))

    def occupied(self, density: np.ndarray) -> np.ndarray:
        """Return whether there is anything in each tile."""
        blocks = density.reshape([n for pair in zip(self.count, self.size, strict=True) for n in pair])
        return np.asarray(blocks.max(axis=tuple(range(1, blocks.ndim, 2))) > 0)

    def nodes(self, place: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the nodes of a tile."""
        return tuple(slice(p * n, (p + 1) * n) for p, n in zip(place, self.size, strict=True))

    def coarse_nodes(self, place: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the nodes of the coarse mesh that a tile's splines are made of."""
        starts = (p * n // RATIO for p, n in zip(place, self.size, strict=True))
        return tuple(slice(start, start + n) for start, n in zip(starts, coarse_shape(self.size), strict=True))

    def holds(self, marks: np.ndarray, mesh: Mesh, points: np.ndarray) -> np.ndarray:
        """Return whether each point (n, dim) lies in a marked tile; those beyond the mesh count for its edge."""
        numbers = [
            np.clip((axis - origin) / (mesh.spacing * n), 0, count - 1).astype(np.int64)
            for axis, origin, n, count in zip(points.T, mesh.origin, self.size, self.count, strict=True)
        ]
        return np.asarray(marks[tuple(numbers)])

    def window(self, density: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
        """Return a tile of a mesh with what the near part reaches around it, zero beyond the mesh."""
        window = np.zeros([n + 2 * r for n, r in zip(self.size, self.reach, strict=True)], density.dtype)
        source, target = [], []
        for p, n, r, end in zip(place, self.size, self.reach, density.shape, strict=True):
            start, stop = max(p * n - r, 0), min((p + 1) * n + r, end)
            source.append(slice(start, stop))
            target.append(slice(start - p * n + r, stop - p * n + r))
        window[tuple(target)] = density[tuple(source)]
        return window

    @property
    def reach(self) -> tuple[int, ...]:
        """Nodes around a tile that its windows have along each axis: none where one tile covers it."""
        return tuple(REACH if count > 1 else 0 for count in self.count)

    @property
    def padded(self) -> tuple[int, ...]:
        """Nodes that a periodic mesh needs so that a window does not feel itself around the edge."""
        return tuple(n + (2 if count > 1 else 1) * REACH for n, count in zip(self.size, self.count, strict=True))

    @property
    def middle(self) -> tuple[slice, ...]:
        """Where in its window the tile is."""
        return tuple(slice(r, r + n) for r, n in zip(self.reach, self.size, strict=True))


def tiles_of(shape: tuple[int, ...]) -> Tiles:
    """Return the tiles that cover a mesh; one of `Tiles.shape` has the same."""
    dim = len(shape)
    count = [math.ceil(n / _TILE_NODES[dim]) for n in shape]
    size = (math.ceil(n / (c * RATIO)) * RATIO for n, c in zip(shape, count, strict=True))
    return Tiles(tuple(size), tuple(count))


def whole_tiles(mesh: Mesh) -> Mesh:
    """Return a mesh widened on all sides so that whole tiles cover it."""
    shape = tiles_of(mesh.shape).shape
    origin = (o - mesh.spacing * (n - s) / 2 for o, n, s in zip(mesh.origin, shape, mesh.shape, strict=True))
    return Mesh(tuple(origin), mesh.spacing, shape)


def choose_tiles(density: np.ndarray) -> tuple[Tiles, np.ndarray]:
    """Return the tiles to take for a mesh of `whole_tiles`, and which of them have anything in them.

    Where many have, what tiles read beyond their edges may cost more than it saves: then the mesh is one tile.
    """
    tiles, one = tiles_of(density.shape), Tiles(density.shape, (1,) * density.ndim)
    marks = tiles.occupied(density)
    if marks.sum() * math.prod(tiles.padded) > _NODES_OF_WHOLE * math.prod(one.padded):
        return one, np.ones(one.count, np.bool_)
    return tiles, marks


def around(marks: np.ndarray) -> np.ndarray:
    """Return the marked tiles and those next to them."""
    return np.asarray(scipy.ndimage.binary_dilation(marks, np.ones([3] * marks.ndim)))
