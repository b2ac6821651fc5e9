"""Memory of a process on a GPU, on the host and for a shard's layout on the device, as formulas that need no GPU."""

from __future__ import annotations

import math

from nomad_dask.backends.gpu.mesh_levels import level_shapes, padded_shape
from nomad_dask.backends.gpu.pinned_copies import MAX_BYTES_IN_FLIGHT

READ_THREADS = 16
"""Threads of KvikIO, which read a file to the device."""
_READ_BUFFER_BYTES = 16 << 20
LIBRARY_BYTES = 600 << 20
"""Memory of RAPIDS and CuPy once imported: measured 520 MiB."""
# Not measured.
_CONTEXT_BYTES = 256 << 20
GPU_HOST_BYTES = LIBRARY_BYTES + _CONTEXT_BYTES + 2 * MAX_BYTES_IN_FLIGHT + READ_THREADS * _READ_BUFFER_BYTES
"""Host memory beside that of a process on CPUs; copies are pinned in both directions."""


def mesh_device_bytes(n_nodes: int, dim: int) -> int:
    """Return the device memory of a mesh of `n_nodes` nodes before padding, while its kernel is computed.

    Two int64 meshes; on the padded meshes of all levels three float32 arrays (charges, spectrum, potential), cuFFT's
    work area, the kernel (half), and temporary arrays of the kernel's computation (four and a half).
    """
    if not n_nodes:
        return 0
    shape = (math.ceil(n_nodes ** (1 / dim)),) * dim
    padded = sum(math.prod(padded_shape(level)) for level in level_shapes(shape))
    return 2 * 8 * n_nodes + 9 * 4 * padded


def joint_device_bytes(n_total: int, n_rows: int, dim: int) -> int:
    """Return what a joint layout adds to the device memory of a worker.

    The positions of all rows, and which of them attract the worker's rows; positions of these, of which there are
    assumed to be at most as many as rows of the worker.

    Parameters
    ----------
    n_total, n_rows : int
        Rows of the map and of the worker.
    dim : int
    """
    return n_total * (4 * dim + 5) + n_rows * (4 * (2 * dim + 1) + 8)


def layout_device_bytes(
    n_rows: int, n_edges: int, n_nodes: int, n_patches: int, dim: int = 2, per_point: bool = False
) -> int:
    """Return an estimate of the peak device memory of a shard's layout.

    Parameters
    ----------
    n_rows : int
        Rows of the shard.
    n_edges : int
        Edges of the shard's graph in both directions, and to patches of other shards; about ``2·n_neighbors`` per row.
    n_nodes : int
        Nodes of the mesh before padding.
    n_patches : int
        Patches of all shards.
    dim : int
    per_point : bool
        Whether each point has a normalizer of its own.
    """
    # Positions twice, velocity; offsets of edges, with other shards also of those to them; order of the patches.
    rows = n_rows * (3 * dim * 4 + (16 if n_patches > 1 else 8) + 4)
    edges = n_edges * 5  # target, and code of the weight
    if per_point:
        rows += n_rows * (2 * dim + 3) * 4  # forces twice, potential, Z and shares
        edges += n_edges * 11  # a weight in place of the code, p(j|i), and the weight of the epoch
    patches = n_patches * ((1 << dim) * (dim + 1) * 4 + (dim + 2) * 4 + 2 * dim * 4 + 8)
    return rows + edges + patches + mesh_device_bytes(n_nodes, dim) + (1 << 20)
