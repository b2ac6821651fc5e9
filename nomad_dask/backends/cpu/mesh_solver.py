"""The potential on a mesh: its charges convolved with K, in one piece or, on a large mesh, level by level.

See `kernel_parts`, `mesh_levels` and `mesh_tiles`.
"""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cpu.charge_deposit import add_charges, deposit_points
from nomad_dask.backends.cpu.fft_convolution import KernelTransforms, convolve, fast_lengths
from nomad_dask.backends.cpu.mesh_levels import to_coarse, to_fine
from nomad_dask.backends.cpu.mesh_tiles import Tile, choose_tiles, dilate, occupied_blocks
from nomad_dask.backends.kernel_parts import RATIO, REACH, Kernel, coarse_mesh, is_split
from nomad_dask.backends.mesh import Mesh
from nomad_dask.utils.threads import Threads

# Transforms of meshes up to this many nodes are not worth a second thread.
_SMALL_MESH = 1 << 14


class MeshSolver:
    """Computes potentials on meshes, and keeps the transforms of K for the next epoch.

    Parameters
    ----------
    pool : Threads
    transforms : KernelTransforms
        Shared with the other shards of the process.
    """

    def __init__(self, pool: Threads, transforms: KernelTransforms) -> None:
        self._pool = pool
        self._shared_transforms = transforms
        self._transforms: dict[int, dict[Kernel, np.ndarray]] = {}

    def solve(
        self, mesh: Mesh, points: np.ndarray, weights: np.ndarray, remote: np.ndarray, remote_weights: np.ndarray
    ) -> np.ndarray:
        """Return spline coefficients float32, of the mesh's shape, of the potential at a shard's points.

        Parameters
        ----------
        mesh : Mesh
        points : ndarray of float32 (n, dim)
        weights : ndarray of float32 (n,) or (0,)
            Empty for weight 1 each.
        remote : ndarray of float32 (m, dim)
            Charges of other shards.
        remote_weights : ndarray of float32 (m,)
        """
        density = deposit_points(mesh, points, weights, self._pool)
        if is_split(mesh.shape):
            return self._solve_by_tiles(mesh, density, remote, remote_weights)
        add_charges(mesh, remote, remote_weights, density)
        return self._solve_level(0, density, mesh.spacing)

    def _solve_by_tiles(
        self, mesh: Mesh, density: np.ndarray, remote: np.ndarray, remote_weights: np.ndarray
    ) -> np.ndarray:
        """Return spline coefficients of the potential in tiles that cover the charges of the shard's points."""
        blocks = occupied_blocks(density)
        tiles = choose_tiles(blocks)
        coarse = coarse_mesh(mesh)
        coarse_density = self._coarse_density(density, tiles, coarse)
        add_charges(coarse, remote, remote_weights, coarse_density)
        far = self._solve_level(1, coarse_density, coarse.spacing)

        add_charges(mesh, remote, remote_weights, density, dilate(blocks))
        transforms = [self._transform(Kernel(0, "near", tile.padded, mesh.spacing), len(tiles)) for tile in tiles]
        coefficients = np.zeros(mesh.shape, np.float32)
        workers = self._pool.n if len(tiles) == 1 else 1

        def solve_tiles(start: int, stop: int) -> None:
            for tile, transform in zip(tiles[start:stop], transforms[start:stop], strict=True):
                potential = convolve(tile.window(density), tile.padded, transform, tile.middle, workers)
                potential += to_fine(far[tile.coarse_nodes], tile.size)
                coefficients[tile.nodes] = potential

        self._pool.run(solve_tiles, len(tiles), 1)
        return coefficients

    def _coarse_density(self, density: np.ndarray, tiles: list[Tile], coarse: Mesh) -> np.ndarray:
        """Return the density of the tiles on the coarse mesh."""
        coarse_density = np.zeros(coarse.shape, np.float32)
        parts: list[np.ndarray] = [coarse_density] * len(tiles)

        def restrict(start: int, stop: int) -> None:
            for i in range(start, stop):
                parts[i] = to_coarse(density[tiles[i].nodes])

        self._pool.run(restrict, len(tiles), 1)
        for tile, part in zip(tiles, parts, strict=True):
            coarse_density[tile.coarse_nodes] += part
        return coarse_density

    def _solve_level(self, level: int, density: np.ndarray, spacing: float) -> np.ndarray:
        """Return spline coefficients, on the whole mesh, of the part of the potential that finer levels leave."""
        shape = density.shape
        if level == 0 or not is_split(shape):
            return self._convolve(density, Kernel(level, "rest", fast_lengths([2 * n for n in shape]), spacing))
        near = self._convolve(density, Kernel(level, "near", fast_lengths([n + REACH for n in shape]), spacing))
        near += to_fine(self._solve_level(level + 1, to_coarse(density), RATIO * spacing), shape)
        return near

    def _convolve(self, density: np.ndarray, kernel: Kernel) -> np.ndarray:
        workers = self._pool.n if density.size > _SMALL_MESH else 1
        kept = [slice(n) for n in density.shape]
        return np.ascontiguousarray(convolve(density, kernel.padded, self._transform(kernel), kept, workers))

    def _transform(self, kernel: Kernel, n_meshes: int = 1) -> np.ndarray:
        """Return the transform of a kernel, and keep it for the next epoch, whose meshes are mostly the same.

        Of a level with several meshes, transforms for other sizes are kept too.
        """
        kept = self._transforms.setdefault(kernel.level, {})
        if kernel not in kept:
            if n_meshes == 1 or any(other.spacing != kernel.spacing for other in kept):
                kept.clear()
            kept[kernel] = self._shared_transforms.get(kernel)
        return kept[kernel]
