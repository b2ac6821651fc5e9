"""K(r) = 1/(1+r²) in parts, each on a mesh of its own.

On a large mesh K is the sum of a near part, which ends within a few nodes, and a smooth rest, which a mesh four times
coarser holds; that of a large coarse mesh is divided in the same way. So only the coarsest mesh is padded to twice its
size. Both ways between two meshes are exact, because cubic B-splines are nested: one of four times the spacing is a sum
of thirteen of single spacing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nomad_dask.backends.mesh import Mesh, choose_mesh, kernel_transform

RATIO = 4
"""Spacing of a coarse mesh in units of the finer mesh's."""
SPLINE_WEIGHTS = (np.array([1, 4, 10, 20, 31, 40, 44, 40, 31, 20, 10, 4, 1]) / 64).astype(np.float32)
"""Coefficients of a coarse spline on the finer mesh: doubling the spacing twice, each time by 1, 4, 6, 4, 1 eighths."""
NODES_BEFORE = 6
"""The coarse node c lies on the fine node ``4·c - 6``: then coarse node 0 is the first that reaches fine node 0."""
REACH = 24
"""Nodes after which the near part is negligible."""
BLOCK_BITS = 5
"""Bits of a node's index along an axis within its block; no charge reaches beyond the next block."""
# The near part of level L is what K·e^(−rate·(1+r²)) has beyond the levels before, with this rate per squared spacing
# of the level. Of the rest the mesh of the next level holds all but 10⁻⁴.
_RATE = 0.014
# K is split on meshes of at least this many nodes along every axis, by their dimensions.
_SPLIT_NODES = {2: 160, 3: 64}


def is_split(shape: tuple[int, ...]) -> bool:
    """Return whether K is split on a mesh of this shape."""
    return min(shape) >= _SPLIT_NODES[len(shape)]


def choose_field_mesh(low: np.ndarray, high: np.ndarray, spacing: float, max_nodes: int) -> Mesh:
    """Return the mesh of `choose_mesh`, enlarged on all sides to whole blocks if K is split on it."""
    mesh = choose_mesh(low, high, spacing, max_nodes)
    return whole_blocks(mesh) if is_split(mesh.shape) else mesh


def whole_blocks(mesh: Mesh) -> Mesh:
    """Return a mesh enlarged on all sides to whole blocks."""
    block = 1 << BLOCK_BITS
    shape = tuple(math.ceil(n / block) * block for n in mesh.shape)
    origin = (o - mesh.spacing * (n - s) / 2 for o, n, s in zip(mesh.origin, shape, mesh.shape, strict=True))
    return Mesh(tuple(origin), mesh.spacing, shape)


def coarse_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the coarse mesh: all of its nodes that reach the fine mesh."""
    return tuple((n + 2 * NODES_BEFORE - 1) // RATIO + 1 for n in shape)


def coarse_mesh(mesh: Mesh) -> Mesh:
    """Return the coarse mesh over a mesh."""
    origin = tuple(o - NODES_BEFORE * mesh.spacing for o in mesh.origin)
    return Mesh(origin, RATIO * mesh.spacing, coarse_shape(mesh.shape))


@dataclass(frozen=True)
class Kernel:
    """The part of K that one level computes, on a periodic mesh.

    Attributes
    ----------
    level : int
        Number of finer meshes, each with `RATIO` times the nodes along each axis; they compute the nearer parts.
    part : {'near', 'rest'}
        The part that ends within `REACH` nodes, or all that is left.
    padded : tuple of int
        Nodes of the periodic mesh along each axis.
    spacing : float
        Spacing of this mesh.
    """

    level: int
    part: Literal["near", "rest"]
    padded: tuple[int, ...]
    spacing: float

    def transform(self, xp: Any = np, rfftn: Callable[[Any], Any] | None = None) -> Any:
        """Return its transform, divided by that of the splines; see `kernel_transform`."""
        return kernel_transform(self.padded, self.spacing, lambda squared: self._of_squared(squared, xp), xp, rfftn)

    def _of_squared(self, squared: Any, xp: Any) -> Any:
        """Return its values at squared distances.

        1/(1+r²) is the integral of e^(−t·(1+r²)) over all t, and each part is that over an interval of t.
        """
        beyond = 1 + squared
        if self.level == 0 and self.part == "rest":
            return 1 / beyond
        rate = np.float32(_RATE / self.spacing**2)
        finer_rate = rate * np.float32(RATIO**2)
        if self.level == 0:
            return xp.exp(-rate * beyond) / beyond
        if self.part == "rest":
            return -xp.expm1(-finer_rate * beyond) / beyond
        return xp.exp(-rate * beyond) * -xp.expm1((rate - finer_rate) * beyond) / beyond
