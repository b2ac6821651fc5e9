"""The field: potential and force of all points on each other, at the cost of a mesh.

Charges are deposited on a regular mesh with cubic B-splines, convolved with K(r) = 1/(1+r²) by FFT and
read back at the points with the same splines (algorithm §3; particle-mesh as in Essmann et al. 1995).
"""

from __future__ import annotations

import math

import numpy as np

from nomad_dask.backends.cpu.direct_sum import sum_directly
from nomad_dask.backends.cpu.fft_convolution import KernelTransforms
from nomad_dask.backends.cpu.mesh_kernels import mesh_frame, mesh_kernels
from nomad_dask.backends.cpu.mesh_solver import MeshSolver
from nomad_dask.backends.kernel_parts import choose_field_mesh
from nomad_dask.backends.mesh import DIRECT_PAIRS, Mesh, clamped_box, sample_step
from nomad_dask.utils.threads import Threads

_GATHER_CHUNK = 1 << 13
# Above DIRECT_PAIRS the plain sum is used where it is faster: in maps of three dimensions nodes can be many and
# points few. This many pairs take as long as one node of the padded mesh.
_PAIRS_A_NODE = 30


def _is_direct_faster(n_points: int, n_charges: int, mesh: Mesh) -> bool:
    """Return whether the plain sum over all pairs takes less time than a mesh."""
    return n_points * n_charges < _PAIRS_A_NODE * math.prod(2 * s for s in mesh.shape)


class Field:
    """Potential U(y) = Σ_m w_m/(1+‖y−y_m‖²) and its gradient, on a mesh that follows the map.

    Parameters
    ----------
    dim : int
        Dimensions of the map, 2 or 3.
    spacing : float
        Preferred mesh spacing in map units.
    max_nodes : int
        Maximum number of nodes of the mesh before padding.
    pool : Threads
        Threads to work with; results do not depend on their number.
    transforms : KernelTransforms, optional
        Shared with the other shards of the process.
    """

    def __init__(
        self, dim: int, spacing: float, max_nodes: int, pool: Threads, transforms: KernelTransforms | None = None
    ) -> None:
        self._dim = dim
        self._spacing = spacing
        self._max_nodes = max_nodes
        self._pool = pool
        self._kernels = mesh_kernels(dim)
        self._solver = MeshSolver(pool, transforms or KernelTransforms())

    def evaluate(
        self,
        points: np.ndarray,
        weights: np.ndarray,
        remote: np.ndarray,
        remote_weights: np.ndarray,
        potential: np.ndarray,
        gradient: np.ndarray,
    ) -> float:
        """Write U (n,) and ∇U (n, dim) of points and remote charges at the points; return Σ U in float64.

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
        if len(points) * n_charges > DIRECT_PAIRS:
            mesh = self.cover(points, remote)
            if not _is_direct_faster(len(points), n_charges, mesh):
                coefficients = self.solve(mesh, points, weights, remote, remote_weights)
                return self.read(mesh, coefficients, points, potential, gradient)
        point_weights = weights if len(weights) else np.ones(len(points), np.float32)
        charges = np.concatenate([points, remote])
        charge_weights = np.concatenate([point_weights, remote_weights])
        return sum_directly(points, charges, charge_weights, potential, gradient, self._pool)

    def cover(self, points: np.ndarray, remote: np.ndarray) -> Mesh:
        """Choose the mesh over the shard's points and remote charges.

        A few outlying points do not widen it: beyond four times the box of 99.8 % of the points they
        are clamped to its edge.
        """
        low, high = np.empty(self._dim, np.float32), np.empty(self._dim, np.float32)
        self._kernels.extent(points, low, high)
        low, high = clamped_box(low, high, points[:: sample_step(len(points))], remote)
        return choose_field_mesh(low, high, self._spacing, self._max_nodes)

    def solve(
        self, mesh: Mesh, points: np.ndarray, weights: np.ndarray, remote: np.ndarray, remote_weights: np.ndarray
    ) -> np.ndarray:
        """Return spline coefficients, of the mesh's shape, of the potential; see `evaluate`."""
        return self._solver.solve(mesh, points, weights, remote, remote_weights)

    def read(
        self, mesh: Mesh, coefficients: np.ndarray, points: np.ndarray, potential: np.ndarray, gradient: np.ndarray
    ) -> float:
        """Write U (n,) and ∇U (n, dim) at the points; return Σ U in float64."""
        frame, flat = mesh_frame(mesh), coefficients.reshape(-1)
        sums = np.zeros(-(-len(points) // _GATHER_CHUNK))

        def gather(start: int, stop: int) -> None:
            sums[start // _GATHER_CHUNK] = self._kernels.gather(points, start, stop, frame, flat, potential, gradient)

        self._pool.run(gather, len(points), _GATHER_CHUNK)
        return float(sums.sum())
