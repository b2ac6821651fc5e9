"""Numba kernel of the paper's repulsion: cell means, and samples from a row's own cell and the nearest cells.

Sampling pairs row a of a cell with row (a + o) mod n_t of the target cell, with a new random o for every pair of cells,
draw and epoch. From any row it follows which rows drew it, so the gradient that negatives receive is gathered, not
scattered: no two threads write to one row, and sums keep their order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit


class SampledCells(NamedTuple):
    """Cells of a shard, and which of them sample which.

    Attributes
    ----------
    offsets : ndarray of int64 (cells + 1,)
        The rows of cell c are ``offsets[c]`` to ``offsets[c + 1]``.
    targets : ndarray of int64 (cells, n_sampled)
        Cells that each cell samples, itself first; -1 for none.
    source_indptr : ndarray of int64 (cells + 1,)
        The cells that sample cell c are ``sources[source_indptr[c] : source_indptr[c + 1]]``.
    sources, source_slots : ndarray of int64
        These cells, and the column of `targets` in which each has cell c.
    """

    offsets: np.ndarray
    targets: np.ndarray
    source_indptr: np.ndarray
    sources: np.ndarray
    source_slots: np.ndarray


class PatchMeans(NamedTuple):
    """Means of the patches of all shards.

    Attributes
    ----------
    means : ndarray of float32 (dim, patches)
    counts : ndarray of float32 (patches,)
        Rows of each patch.
    first_patch : int
        The shard's cells are the patches from this one on.
    """

    means: np.ndarray
    counts: np.ndarray
    first_patch: int


class Draws(NamedTuple):
    """What the random offsets of samples depend on.

    Attributes
    ----------
    n_negatives : int
        Samples per row and sampled cell; 0 takes the means of all cells instead.
    seed, epoch : int
    """

    n_negatives: int
    seed: int
    epoch: int


class RepulsionSums(NamedTuple):
    """Output of the kernel.

    Attributes
    ----------
    z : ndarray of float32 (rows,)
        Z_i = Σ_m q_im.
    repulsion : ndarray of float32 (rows, dim)
        R_i = Σ_m w q_im² (y_i − y_m).
    """

    z: np.ndarray
    repulsion: np.ndarray


@njit(nogil=True, cache=True)
def _offset(seed, epoch, cell, slot, draw, low, size):  # type: ignore[no-untyped-def]
    """Return a number in [low, size) that depends on all the others only (splitmix64)."""
    h = np.uint64(seed)
    for part in (epoch, cell, slot, draw):
        h = (h ^ np.uint64(part)) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(30)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(27)
    return low + np.int64(h % np.uint64(size - low))


# Numba inlines the helpers before it compiles the kernel, so that `dim` is a constant in them too. Each takes a whole
# cell: reading an array from a named tuple counts references, which for every row would take time.


@njit(inline="always")
def _add_patch_means(points, row_weights, cell, cells, patches, n_negatives, sums, dim):  # type: ignore[no-untyped-def]
    """Write the sums over all patches but those that `cell` samples."""
    means, offsets, targets = patches.means, cells.offsets, cells.targets
    weights = patches.counts.copy()
    if n_negatives > 0:
        for slot in range(targets.shape[1]):
            if targets[cell, slot] >= 0:
                weights[patches.first_patch + targets[cell, slot]] = 0
    for i in range(offsets[cell], offsets[cell + 1]):
        total = np.float32(0)
        push_x, push_y, push_z = np.float32(0), np.float32(0), np.float32(0)
        x, y = points[i, 0], points[i, 1]
        z = points[i, 2] if dim == 3 else np.float32(0)
        for r in range(weights.size):
            dx, dy = x - means[0, r], y - means[1, r]
            squared = dx * dx + dy * dy
            if dim == 3:
                dz = z - means[2, r]
                squared += dz * dz
            q = np.float32(1) / (np.float32(1) + squared)
            total += weights[r] * q
            force = weights[r] * q * q
            push_x += force * dx
            push_y += force * dy
            if dim == 3:
                push_z += force * dz
        row = i - offsets[cell]
        sums[row, 0], sums[row, 1] = push_x * row_weights[i], push_y * row_weights[i]
        if dim == 3:
            sums[row, 2] = push_z * row_weights[i]
        sums[row, dim] = total


@njit(inline="always")
def _add_samples(points, row_weights, cell, cells, draws, sums, dim):  # type: ignore[no-untyped-def]
    """Add for each row of `cell` the rows that it draws."""
    offsets, targets, n_negatives = cells.offsets, cells.targets, draws.n_negatives
    first = offsets[cell]
    for slot in range(targets.shape[1] if n_negatives > 0 else 0):
        target = targets[cell, slot]
        if target < 0:
            continue
        low = 1 if target == cell else 0  # a row is not its own negative
        n_target = offsets[target + 1] - offsets[target]
        if n_target <= low:
            continue
        weight = (n_target - low) / n_negatives
        for draw in range(n_negatives):
            o = _offset(draws.seed, draws.epoch, cell, slot, draw, low, n_target)
            for row in range(offsets[cell + 1] - first):
                i, m = first + row, offsets[target] + (row + o) % n_target
                squared = 0.0
                for a in range(dim):
                    squared += (points[i, a] - points[m, a]) ** 2
                q = 1.0 / (1.0 + squared)
                sums[row, dim] += weight * q
                for a in range(dim):
                    sums[row, a] += row_weights[i] * weight * q * q * (points[i, a] - points[m, a])


@njit(inline="always")
def _add_reverse_samples(points, row_weights, cell, cells, draws, sums, dim):  # type: ignore[no-untyped-def]
    """Add for each row of `cell` the gradient that it receives from rows that drew it."""
    offsets, sources, slots, n_negatives = cells.offsets, cells.sources, cells.source_slots, draws.n_negatives
    first, size = offsets[cell], offsets[cell + 1] - offsets[cell]
    for s in range(cells.source_indptr[cell], cells.source_indptr[cell + 1] if n_negatives > 0 else 0):
        source = sources[s]
        low = 1 if source == cell else 0
        if size <= low:
            continue
        weight = (size - low) / n_negatives
        for draw in range(n_negatives):
            o = _offset(draws.seed, draws.epoch, source, slots[s], draw, low, size)
            for row in range(size):
                i = first + row
                for m in range(offsets[source] + (row - o) % size, offsets[source + 1], size):
                    squared = 0.0
                    for a in range(dim):
                        squared += (points[i, a] - points[m, a]) ** 2
                    q = 1.0 / (1.0 + squared)
                    for a in range(dim):
                        sums[row, a] += row_weights[m] * weight * q * q * (points[i, a] - points[m, a])


@lru_cache
def cell_mean_kernel(dim: int) -> Any:
    """Compile (or load from the cache) the kernel for maps of `dim` dimensions."""

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def repel_by_means(points, row_weights, start, stop, cells, patches, draws, out):  # type: ignore[no-untyped-def]
        """Write Z_i and R_i for the rows of cells `start` to `stop`.

        `row_weights` (n,) are factors on the gradient of each row's Z_i.
        """
        for cell in range(start, stop):
            first, last = cells.offsets[cell], cells.offsets[cell + 1]
            sums = np.empty((last - first, dim + 1), np.float64)  # R_i and Z_i
            _add_patch_means(points, row_weights, cell, cells, patches, draws.n_negatives, sums, dim)
            _add_samples(points, row_weights, cell, cells, draws, sums, dim)
            _add_reverse_samples(points, row_weights, cell, cells, draws, sums, dim)
            out.repulsion[first:last] = sums[:, :dim]
            out.z[first:last] = sums[:, dim]

    return repel_by_means
