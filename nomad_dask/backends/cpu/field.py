"""The field: potential and force of all points on each other, at the cost of a mesh.

Charges are deposited on a regular mesh with cubic B-splines, convolved with K(r) = 1/(1+r²) by FFT and
read back at the points with the same splines (algorithm §3; particle-mesh as in Essmann et al. 1995).
"""

from __future__ import annotations

import math

import numpy as np

from nomad_dask.backends.cpu.fft_convolution import REACH, Kernel, convolve, fast_lengths
from nomad_dask.backends.cpu.mesh_kernels import mesh_kernels
from nomad_dask.backends.cpu.mesh_tiles import BLOCK_BITS, around, choose_tiles, occupied, whole_blocks
from nomad_dask.backends.cpu.multigrid import RATIO, coarse_mesh, to_coarse, to_fine
from nomad_dask.backends.mesh import DIRECT_PAIRS, Mesh, choose_mesh, held_box, sample_step
from nomad_dask.utils.threads import Threads

# Mesh rows of a band. Bands are filled by one thread each, all even ones before all odd ones: a stencil
# reaches 2 rows into the next band, so bands of at least 4 rows never meet, and every sum keeps its order.
_BAND_ROWS = 8
_SORT_CHUNK = 1 << 16
_GATHER_CHUNK = 1 << 13
_DIRECT_CHUNK = 1 << 9
# Above DIRECT_PAIRS the plain sum is used where it is faster: in maps of three dimensions nodes can be many and
# points few. This many pairs take as long as one node of the padded mesh.
_PAIRS_A_NODE = 30
# Transforms of meshes up to this many nodes are not worth a second thread.
_SMALL_MESH = 1 << 14
# K is cut in two on meshes of at least so many nodes along every axis, by their dimensions.
_SPLIT_NODES = {2: 160, 3: 64}


def sums_directly(n_points: int, n_charges: int, mesh: Mesh) -> bool:
    """Tell whether the plain sum over all pairs takes less time than a mesh."""
    return n_points * n_charges < _PAIRS_A_NODE * math.prod(2 * s for s in mesh.shape)


class Field:
    """Potential U(y) = Σ_m w_m/(1+‖y−y_m‖²) and its gradient, on a mesh that follows the map.

    Parameters
    ----------
    dim : int
        Dimensions of the map, 2 or 3.
    spacing : float
        Wished mesh spacing in map units.
    max_nodes : int
        Most nodes of the mesh before padding.
    pool : Threads
        Threads to work with; results do not depend on their number.
    """

    def __init__(self, dim: int, spacing: float, max_nodes: int, pool: Threads) -> None:
        self._dim = dim
        self._spacing = spacing
        self._max_nodes = max_nodes
        self._pool = pool
        self._kernels = mesh_kernels(dim)
        self._transforms: dict[int, dict[Kernel, np.ndarray]] = {}

    def evaluate(
        self,
        points: np.ndarray,
        weights: np.ndarray,
        remote: np.ndarray,
        remote_weights: np.ndarray,
        potential: np.ndarray,
        gradient: np.ndarray,
    ) -> float:
        """Write U (n,) and ∇U (n, dim) of points and remote means at the points; return Σ U in float64.

        Parameters
        ----------
        points : ndarray of float32 (n, dim)
        weights : ndarray of float32 (n,) or (0,)
            Empty for weight 1 each.
        remote : ndarray of float32 (m, dim)
        remote_weights : ndarray of float32 (m,)
        potential : ndarray of float32 (n,)
        gradient : ndarray of float32 (n, dim)
        """
        n_charges = len(points) + len(remote)
        if len(points) * n_charges <= DIRECT_PAIRS:
            return self.sum_directly(points, weights, remote, remote_weights, potential, gradient)
        mesh = self.cover(points, remote)
        if sums_directly(len(points), n_charges, mesh):
            return self.sum_directly(points, weights, remote, remote_weights, potential, gradient)
        coefficients = self.solve(mesh, points, weights, remote, remote_weights)
        return self.read(mesh, coefficients, points, potential, gradient)

    def sum_directly(
        self,
        points: np.ndarray,
        weights: np.ndarray,
        remote: np.ndarray,
        remote_weights: np.ndarray,
        potential: np.ndarray,
        gradient: np.ndarray,
    ) -> float:
        """Do what `evaluate` does by the plain sum over all charges."""
        own = weights if len(weights) else np.ones(len(points), np.float32)
        charges = np.ascontiguousarray(np.concatenate([points, remote]).T)
        all_weights = np.concatenate([own, remote_weights])
        sums = np.zeros(-(-len(points) // _DIRECT_CHUNK))

        def part(a: int, b: int) -> None:
            sums[a // _DIRECT_CHUNK] = self._kernels.direct(points, a, b, charges, all_weights, potential, gradient)

        self._pool.run(part, len(points), _DIRECT_CHUNK)
        return float(sums.sum())

    def cover(self, points: np.ndarray, remote: np.ndarray) -> Mesh:
        """Choose the mesh over own points and remote means.

        A few far-flung points do not widen it: beyond four times the box of 99.8 % of the points they
        are held at its edge.
        """
        low, high = np.empty(self._dim, np.float32), np.empty(self._dim, np.float32)
        self._kernels.extent(points, low, high)
        low, high = held_box(low, high, points[:: sample_step(len(points))], remote)
        mesh = choose_mesh(low, high, self._spacing, self._max_nodes)
        return whole_blocks(mesh) if self._is_large(mesh) else mesh

    def _is_large(self, mesh: Mesh) -> bool:
        return min(mesh.shape) >= _SPLIT_NODES[self._dim]

    def solve(
        self,
        mesh: Mesh,
        points: np.ndarray,
        weights: np.ndarray,
        remote: np.ndarray,
        remote_weights: np.ndarray,
    ) -> np.ndarray:
        """Return spline coefficients, of the mesh's shape, of the potential; see `evaluate`."""
        density = self._deposit(mesh, points, weights)
        if self._is_large(mesh):
            return self._solve_by_tiles(mesh, density, remote, remote_weights)
        self._deposit_remote(mesh, remote, remote_weights, density)
        return self._rest(0, density, mesh.spacing)

    def _solve_by_tiles(
        self, mesh: Mesh, density: np.ndarray, remote: np.ndarray, remote_weights: np.ndarray
    ) -> np.ndarray:
        """Return spline coefficients of the potential in tiles that cover what own points have deposited.

        The near part of K ends within a few nodes; the rest is smooth, and a mesh four times coarser holds it.
        """
        blocks = occupied(density)
        tiles = choose_tiles(blocks)
        coarse = coarse_mesh(mesh)
        charges = np.zeros(coarse.shape, np.float32)
        parts: list[np.ndarray] = [charges] * len(tiles)

        def down(start: int, stop: int) -> None:
            for i in range(start, stop):
                parts[i] = to_coarse(density[tiles[i].nodes])

        self._pool.run(down, len(tiles), 1)
        for tile, part in zip(tiles, parts, strict=True):
            charges[tile.coarse_nodes] += part
        self._deposit_remote(coarse, remote, remote_weights, charges)
        far = self._rest(1, charges, coarse.spacing)

        self._deposit_remote(mesh, remote, remote_weights, density, around(blocks))
        transforms = [self._transform(Kernel(0, "near", tile.padded, mesh.spacing), len(tiles)) for tile in tiles]
        coefficients = np.zeros(mesh.shape, np.float32)
        workers = self._pool.n if len(tiles) == 1 else 1

        def up(start: int, stop: int) -> None:
            for tile, transform in zip(tiles[start:stop], transforms[start:stop], strict=True):
                potential = convolve(tile.window(density), tile.padded, transform, tile.middle, workers)
                potential += to_fine(far[tile.coarse_nodes], tile.size)
                coefficients[tile.nodes] = potential

        self._pool.run(up, len(tiles), 1)
        return coefficients

    def _deposit_remote(
        self,
        mesh: Mesh,
        remote: np.ndarray,
        weights: np.ndarray,
        density: np.ndarray,
        blocks: np.ndarray | None = None,
    ) -> None:
        """Add charges to the density, those in marked blocks of the mesh or all."""
        if not len(remote):
            return
        bits = BLOCK_BITS
        if blocks is None:
            blocks, bits = np.ones([1] * self._dim, np.bool_), max(mesh.shape).bit_length()
        *constants, strides = _constants(mesh)
        ordered = np.empty((len(remote), self._dim + 1), np.float32)
        n = self._kernels.choose(remote, weights, *constants, bits, _strides(blocks.shape), blocks.reshape(-1), ordered)
        self._kernels.deposit(ordered, 0, n, strides, density.reshape(-1))

    def _deposit(self, mesh: Mesh, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        n = len(points)
        origin, inverse, upper, strides = _constants(mesh)
        n_bands = mesh.shape[0] // _BAND_ROWS + 1
        chunks = range(0, n, _SORT_CHUNK)
        counts = np.zeros((len(chunks), n_bands), np.int64)
        self._pool.run(
            lambda a, b: self._kernels.count_bands(
                points, a, b, origin, inverse, upper, _BAND_ROWS, counts[a // _SORT_CHUNK]
            ),
            n,
            _SORT_CHUNK,
        )
        # Stable counting sort: all of band 0 in row order, then all of band 1, and so on.
        ends = np.cumsum(counts.sum(axis=0))
        starts = ends - counts.sum(axis=0)
        places = starts + np.cumsum(counts, axis=0) - counts
        ordered = np.empty((n, self._dim + (1 if len(weights) else 0)), np.float32)
        self._pool.run(
            lambda a, b: self._kernels.sort_bands(
                points, weights, a, b, origin, inverse, upper, _BAND_ROWS, places[a // _SORT_CHUNK], ordered
            ),
            n,
            _SORT_CHUNK,
        )
        density = np.zeros(mesh.shape, np.float32)
        flat = density.reshape(-1)
        for parity in (0, 1):
            bands = np.arange(parity, n_bands, 2)
            bands = bands[ends[bands] > starts[bands]]
            groups = _even_groups(ends[bands] - starts[bands], 2 * self._pool.n if n > _GATHER_CHUNK else 1)

            def fill(a: int, b: int, bands: np.ndarray = bands, groups: np.ndarray = groups) -> None:
                for band in bands[groups[a] : groups[b]]:
                    self._kernels.deposit(ordered, starts[band], ends[band], strides, flat)

            self._pool.run(fill, len(groups) - 1, 1)
        return density

    def _rest(self, level: int, density: np.ndarray, spacing: float) -> np.ndarray:
        """Return spline coefficients, everywhere on the mesh, of what finer levels have left of the potential."""
        shape = density.shape
        if level == 0 or min(shape) < _SPLIT_NODES[self._dim]:
            return self._convolve(density, Kernel(level, "rest", fast_lengths([2 * n for n in shape]), spacing))
        near = self._convolve(density, Kernel(level, "near", fast_lengths([n + REACH for n in shape]), spacing))
        near += to_fine(self._rest(level + 1, to_coarse(density), RATIO * spacing), shape)
        return near

    def _convolve(self, density: np.ndarray, kernel: Kernel) -> np.ndarray:
        workers = self._pool.n if density.size > _SMALL_MESH else 1
        kept = [slice(n) for n in density.shape]
        return np.ascontiguousarray(convolve(density, kernel.padded, self._transform(kernel), kept, workers))

    def _transform(self, kernel: Kernel, n_meshes: int = 1) -> np.ndarray:
        """Return the transform of a kernel, and keep it for the next epoch, whose meshes mostly are alike.

        Of a level that has several meshes, those of other sizes are kept, too.
        """
        kept = self._transforms.setdefault(kernel.level, {})
        if kernel not in kept:
            if n_meshes == 1 or any(other.spacing != kernel.spacing for other in kept):
                kept.clear()
            kept[kernel] = kernel.transform()
        return kept[kernel]

    def read(
        self,
        mesh: Mesh,
        coefficients: np.ndarray,
        points: np.ndarray,
        potential: np.ndarray,
        gradient: np.ndarray,
    ) -> float:
        """Write U (n,) and ∇U (n, dim) at the points; return Σ U in float64."""
        origin, inverse, upper, strides = _constants(mesh)
        n = len(points)
        sums = np.zeros(-(-n // _GATHER_CHUNK))

        def part(a: int, b: int) -> None:
            sums[a // _GATHER_CHUNK] = self._kernels.gather(
                points, a, b, origin, inverse, upper, strides, coefficients.reshape(-1), potential, gradient
            )

        self._pool.run(part, n, _GATHER_CHUNK)
        return float(sums.sum())


def _strides(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([math.prod(shape[a + 1 :]) for a in range(len(shape))], np.int64)


def _constants(mesh: Mesh) -> tuple[np.ndarray, np.float32, np.ndarray, np.ndarray]:
    """Return origin, 1/spacing, the last place with a full stencil, and strides, as the kernels take them."""
    upper = np.array([s - 2.001 for s in mesh.shape], np.float32)
    return np.asarray(mesh.origin, np.float32), np.float32(1 / mesh.spacing), upper, _strides(mesh.shape)


def _even_groups(sizes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return edges that cut a sequence of bands into groups of about equal total size."""
    if not len(sizes):
        return np.zeros(1, np.int64)
    total = np.cumsum(sizes)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, n_groups) / n_groups) + 1
    return np.unique(np.concatenate([[0], np.minimum(cuts, len(sizes)), [len(sizes)]]))
