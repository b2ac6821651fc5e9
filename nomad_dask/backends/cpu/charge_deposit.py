"""Deposit of charges on a mesh with cubic B-splines, in parallel and in an order that does not depend on threads."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cpu.mesh_kernels import flat_strides, mesh_frame, mesh_kernels
from nomad_dask.backends.kernel_parts import BLOCK_BITS
from nomad_dask.backends.mesh import Mesh
from nomad_dask.utils.threads import Threads

# Mesh rows of a band. One thread fills a band, all even bands before all odd ones: a stencil reaches 2 rows into
# the next band, so bands of at least 4 rows never meet, and every sum keeps its order.
_BAND_ROWS = 8
_SORT_CHUNK = 1 << 16
# Bands of fewer points than this are filled by one thread.
_MIN_PARALLEL_POINTS = 1 << 13


def deposit_points(mesh: Mesh, points: np.ndarray, weights: np.ndarray, pool: Threads) -> np.ndarray:
    """Return the charge density float32, of the mesh's shape, of a shard's points.

    Parameters
    ----------
    mesh : Mesh
    points : ndarray of float32 (n, dim)
    weights : ndarray of float32 (n,) or (0,)
        Empty for weight 1 each.
    pool : Threads
    """
    kernels = mesh_kernels(points.shape[1])
    ordered, offsets = _sort_into_bands(mesh, points, weights, pool)
    density = np.zeros(mesh.shape, np.float32)
    flat, strides = density.reshape(-1), flat_strides(mesh.shape)
    sizes = np.diff(offsets)
    for parity in (0, 1):
        bands = np.arange(parity, len(sizes), 2)
        bands = bands[sizes[bands] > 0]
        groups = _even_groups(sizes[bands], 2 * pool.n if len(points) > _MIN_PARALLEL_POINTS else 1)

        def fill(start: int, stop: int, bands: np.ndarray = bands, groups: np.ndarray = groups) -> None:
            for band in bands[groups[start] : groups[stop]]:
                kernels.deposit(ordered, offsets[band], offsets[band + 1], strides, flat)

        pool.run(fill, len(groups) - 1, 1)
    return density


def _sort_into_bands(
    mesh: Mesh, points: np.ndarray, weights: np.ndarray, pool: Threads
) -> tuple[np.ndarray, np.ndarray]:
    """Return points in mesh units, and weights if any, sorted by band, and the offsets of the bands.

    A stable counting sort: all of band 0 in row order, then all of band 1, and so on.
    """
    n, dim = points.shape
    kernels = mesh_kernels(dim)
    frame = mesh_frame(mesh)
    counts = np.zeros((len(range(0, n, _SORT_CHUNK)), mesh.shape[0] // _BAND_ROWS + 1), np.int64)

    def count(start: int, stop: int) -> None:
        kernels.count_bands(points, start, stop, frame, _BAND_ROWS, counts[start // _SORT_CHUNK])

    pool.run(count, n, _SORT_CHUNK)
    offsets = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    offsets_of_chunks = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    ordered = np.empty((n, dim + (1 if len(weights) else 0)), np.float32)

    def sort(start: int, stop: int) -> None:
        chunk_offsets = offsets_of_chunks[start // _SORT_CHUNK]
        kernels.sort_bands(points, weights, start, stop, frame, _BAND_ROWS, chunk_offsets, ordered)

    pool.run(sort, n, _SORT_CHUNK)
    return ordered, offsets


def _even_groups(sizes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return offsets that cut a sequence of bands into groups of about equal total size."""
    if not len(sizes):
        return np.zeros(1, np.int64)
    total = np.cumsum(sizes)
    cuts = np.searchsorted(total, total[-1] * np.arange(1, n_groups) / n_groups) + 1
    return np.unique(np.concatenate([[0], np.minimum(cuts, len(sizes)), [len(sizes)]]))


def add_charges(
    mesh: Mesh, charges: np.ndarray, weights: np.ndarray, density: np.ndarray, blocks: np.ndarray | None = None
) -> None:
    """Add charges of other shards to the density.

    Parameters
    ----------
    mesh : Mesh
    charges : ndarray of float32 (m, dim)
    weights : ndarray of float32 (m,)
    density : ndarray of float32
        Of the mesh's shape.
    blocks : ndarray of bool, optional
        Marks the blocks of the mesh whose charges are added; None adds all.
    """
    if not len(charges):
        return
    dim = charges.shape[1]
    bits = BLOCK_BITS
    if blocks is None:
        blocks, bits = np.ones([1] * dim, np.bool_), max(mesh.shape).bit_length()
    kernels, frame = mesh_kernels(dim), mesh_frame(mesh)
    ordered = np.empty((len(charges), dim + 1), np.float32)
    n = kernels.select(charges, weights, frame, bits, flat_strides(blocks.shape), blocks.reshape(-1), ordered)
    kernels.deposit(ordered, 0, n, frame.strides, density.reshape(-1))
