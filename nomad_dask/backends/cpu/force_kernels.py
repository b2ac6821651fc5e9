"""Numba kernels along the edges of the graph: attraction, the step of every point, and the loss."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit


class Edges(NamedTuple):
    """Edges that attract the rows of a shard, as CSR, as `move` and `attraction_loss` take them.

    Attributes
    ----------
    indptr, indices : ndarray of int64, int32
        Edges within the shard.
    weights : ndarray of float32
        Of each edge, or of each code for kernels with codes.
    weight_codes : ndarray of uint8
        The code of each edge, for kernels with codes.
    patch_moments : ndarray of float32 (patches of all shards, dim + 1)
        Mean of each patch, and its variance summed over the axes.
    cross_indptr, cross_patches, cross_weights : ndarray of int64, int32, float32
        Edges to patches of other shards.
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    weight_codes: np.ndarray
    patch_moments: np.ndarray
    cross_indptr: np.ndarray
    cross_patches: np.ndarray
    cross_weights: np.ndarray


class StepFactors(NamedTuple):
    """Factors of one step, as `move` takes them.

    Attributes
    ----------
    repulsion, attraction, learning_rate, momentum, max_step_norm : float32
    """

    repulsion: np.float32
    attraction: np.float32
    learning_rate: np.float32
    momentum: np.float32
    max_step_norm: np.float32


class ConditionalEdges(NamedTuple):
    """Edges within a shard with both of their probabilities, as `point_coefficients` takes them.

    Attributes
    ----------
    indptr, indices : ndarray of int64, int32
    conditional_p, reverse_p : ndarray of float32
        p(j|i) and p(i|j) of each edge from i to j.
    """

    indptr: np.ndarray
    indices: np.ndarray
    conditional_p: np.ndarray
    reverse_p: np.ndarray


class ForceKernels(NamedTuple):
    """The compiled kernels for one number of dimensions, with or without codes."""

    move: Any
    attraction_loss: Any
    point_coefficients: Any


# Named tuples are unpacked before a loop: reading an array from one counts references.
# Without NumPy's error model Numba checks every division for zero, and no loop with one becomes SIMD code.
@lru_cache
def force_kernels(dim: int, with_codes: bool) -> ForceKernels:
    """Compile (or load from the cache) the kernels for maps of `dim` dimensions.

    Parameters
    ----------
    dim : int
    with_codes : bool
        Whether weights are those of codes, or of edges.
    """
    return ForceKernels(
        _move_kernel(dim, with_codes), _attraction_loss_kernel(dim, with_codes), _point_coefficients_kernel(dim)
    )


def _move_kernel(dim: int, with_codes: bool) -> Any:
    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def move(points, velocity, repulsion, start, stop, edges, factors, moved):  # type: ignore[no-untyped-def]
        """Step rows `start` to `stop`: g = 2·(repulsion·R − attraction·Σ a q (y_i−y_j)), then momentum and clip.

        `repulsion` R (n, dim) points away from the other points; `moved` receives the new positions, so
        that all rows see the old ones.
        """
        two, one = np.float32(2), np.float32(1)
        indptr, indices, weights, codes, means, cross_indptr, cross_patches, cross_weights = edges
        repel, attract, rate, momentum, max_step_norm = factors
        for i in range(start, stop):
            x, y = points[i, 0], points[i, 1]
            z = points[i, 2] if dim == 3 else np.float32(0)
            pull_x, pull_y, pull_z = np.float32(0), np.float32(0), np.float32(0)
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                dx, dy = x - points[j, 0], y - points[j, 1]
                squared = dx * dx + dy * dy
                if dim == 3:
                    dz = z - points[j, 2]
                    squared += dz * dz
                force = (weights[codes[e]] if with_codes else weights[e]) / (one + squared)
                pull_x += force * dx
                pull_y += force * dy
                if dim == 3:
                    pull_z += force * dz
            for e in range(cross_indptr[i], cross_indptr[i + 1]):
                r = cross_patches[e]
                dx, dy = x - means[r, 0], y - means[r, 1]
                squared = dx * dx + dy * dy + means[r, dim]
                if dim == 3:
                    dz = z - means[r, 2]
                    squared += dz * dz
                force = cross_weights[e] / (one + squared)
                pull_x += force * dx
                pull_y += force * dy
                if dim == 3:
                    pull_z += force * dz
            step_x = momentum * velocity[i, 0] + rate * two * (repel * repulsion[i, 0] - attract * pull_x)
            step_y = momentum * velocity[i, 1] + rate * two * (repel * repulsion[i, 1] - attract * pull_y)
            length = step_x * step_x + step_y * step_y
            if dim == 3:
                step_z = momentum * velocity[i, 2] + rate * two * (repel * repulsion[i, 2] - attract * pull_z)
                length += step_z * step_z
            scale = max_step_norm / np.sqrt(length) if length > max_step_norm * max_step_norm else one
            velocity[i, 0] = step_x * scale
            velocity[i, 1] = step_y * scale
            moved[i, 0] = x + step_x * scale
            moved[i, 1] = y + step_y * scale
            if dim == 3:
                velocity[i, 2] = step_z * scale
                moved[i, 2] = z + step_z * scale

    return move


def _attraction_loss_kernel(dim: int, with_codes: bool) -> Any:
    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def attraction_loss(points, stride, edges):  # type: ignore[no-untyped-def]
        """Return ½ Σ a_ij log(1+d²) over the edges of every `stride`-th row, plus ½ Σ over patches of other shards."""
        indptr, indices, weights, codes, means, cross_indptr, cross_patches, cross_weights = edges
        total = 0.0
        for i in range(0, len(points), stride):
            for e in range(indptr[i], indptr[i + 1]):
                squared = 0.0
                for a in range(dim):
                    d = points[i, a] - points[indices[e], a]
                    squared += d * d
                total += 0.5 * (weights[codes[e]] if with_codes else weights[e]) * np.log1p(squared)
            for e in range(cross_indptr[i], cross_indptr[i + 1]):
                squared = np.float64(means[cross_patches[e], dim])
                for a in range(dim):
                    d = points[i, a] - means[cross_patches[e], a]
                    squared += d * d
                total += 0.5 * cross_weights[e] * np.log1p(squared)
        return total

    return attraction_loss


def _point_coefficients_kernel(dim: int) -> Any:
    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def point_coefficients(points, start, stop, edges, z, weights, row_weights):  # type: ignore[no-untyped-def]
        """Turn p(j|i) into the weights of attraction under one normalizer per point, and sum the row weights.

        With L = −Σ p log[q/(q+Z_i)] an edge attracts with p(j|i)·Z_i/(q+Z_i) + p(i|j)·Z_j/(q+Z_j), and
        row i weighs the gradient of its Z_i by S_i = Σ_j p(j|i)/(q_ij+Z_i). Returns the loss of the rows.
        """
        indptr, indices, forward, backward = edges
        loss = 0.0
        for i in range(start, stop):
            row_weight = 0.0
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                squared = 0.0
                for a in range(dim):
                    d = points[i, a] - points[j, a]
                    squared += d * d
                q = 1.0 / (1.0 + squared)
                weights[e] = forward[e] * z[i] / (q + z[i]) + backward[e] * z[j] / (q + z[j])
                row_weight += forward[e] / (q + z[i])
                loss += forward[e] * np.log((q + z[i]) / q)
            row_weights[i] = row_weight
        return loss

    return point_coefficients
