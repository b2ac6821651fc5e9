"""Numba kernel of the paper's repulsion: cell means, and samples from the own and the nearest cells."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit


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


@lru_cache
def means_kernel(dim: int) -> Any:
    """Compile (or load from the cache) the kernel for maps of `dim` dimensions."""

    @njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
    def repel_by_means(  # type: ignore[no-untyped-def]
        points, first_cell, last_cell, offsets, means, counts, first_patch,
        targets, sources, source_slots, source_ptr, n_negatives, seed, epoch, shares, z, repulsion,
    ):  # fmt: skip
        """Write Z_i and R_i for the rows of cells `first_cell` to `last_cell`.

        Sampling pairs row a of a cell with row (a + o) mod n_t of the target cell, with a new random o for
        every pair of cells, draw and epoch. Any row knows who drew it, so the gradient that negatives
        receive is gathered, not scattered: no two threads write to one row, and sums keep their order.

        points (n, dim); offsets (cells+1,); means (dim, patches) and counts (patches,) of all shards;
        own cells are the patches from first_patch on, and sampling replaces some; targets (cells, exact)
        own cells to sample, the own first, -1 for none; sources: for each own cell the cells that sample it.
        """
        n_means = counts.size
        weights = np.empty(n_means, np.float32)
        push = np.zeros(dim, np.float64)
        for c in range(first_cell, last_cell):
            weights[:] = counts
            if n_negatives > 0:
                for slot in range(targets.shape[1]):
                    if targets[c, slot] >= 0:
                        weights[first_patch + targets[c, slot]] = 0
            size = offsets[c + 1] - offsets[c]
            for i in range(offsets[c], offsets[c + 1]):
                total = np.float32(0)
                push_x, push_y, push_z = np.float32(0), np.float32(0), np.float32(0)
                x, y = points[i, 0], points[i, 1]
                w = points[i, 2] if dim == 3 else np.float32(0)
                for r in range(n_means):
                    dx, dy = x - means[0, r], y - means[1, r]
                    squared = dx * dx + dy * dy
                    if dim == 3:
                        dz = w - means[2, r]
                        squared += dz * dz
                    q = np.float32(1) / (np.float32(1) + squared)
                    total += weights[r] * q
                    force = weights[r] * q * q
                    push_x += force * dx
                    push_y += force * dy
                    if dim == 3:
                        push_z += force * dz
                share = shares[i]
                push[0], push[1] = push_x * share, push_y * share
                if dim == 3:
                    push[2] = push_z * share
                drawn = float(total)
                place = i - offsets[c]
                for slot in range(targets.shape[1] if n_negatives > 0 else 0):
                    t = targets[c, slot]
                    if t < 0:
                        continue
                    own = 1 if t == c else 0  # a row is not its own negative
                    n_target = offsets[t + 1] - offsets[t]
                    if n_target <= own:
                        continue
                    weight = (n_target - own) / n_negatives
                    for draw in range(n_negatives):
                        o = _offset(seed, epoch, c, slot, draw, own, n_target)
                        m = offsets[t] + (place + o) % n_target
                        squared = 0.0
                        for a in range(dim):
                            squared += (points[i, a] - points[m, a]) ** 2
                        q = 1.0 / (1.0 + squared)
                        drawn += weight * q
                        for a in range(dim):
                            push[a] += share * weight * q * q * (points[i, a] - points[m, a])
                # The other way round: rows that drew this one.
                for s in range(source_ptr[c] if n_negatives > 0 else 0, source_ptr[c + 1] if n_negatives > 0 else 0):
                    b = sources[s]
                    slot = source_slots[s]
                    own = 1 if b == c else 0
                    if size <= own:
                        continue
                    n_source = offsets[b + 1] - offsets[b]
                    weight = (size - own) / n_negatives
                    for draw in range(n_negatives):
                        o = _offset(seed, epoch, b, slot, draw, own, size)
                        for at in range((place - o) % size, n_source, size):
                            m = offsets[b] + at
                            squared = 0.0
                            for a in range(dim):
                                squared += (points[i, a] - points[m, a]) ** 2
                            q = 1.0 / (1.0 + squared)
                            for a in range(dim):
                                push[a] += shares[m] * weight * q * q * (points[i, a] - points[m, a])
                z[i] = drawn
                for a in range(dim):
                    repulsion[i, a] = push[a]

    return repel_by_means
