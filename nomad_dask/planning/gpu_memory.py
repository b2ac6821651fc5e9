"""GPU memory of a worker in each stage, and what its process takes on the host besides.

The neighbor search is not listed: it works with what is left.
"""

from __future__ import annotations

from nomad_dask.backends.memory_model import GPU_HOST_BYTES, joint_device_bytes, layout_device_bytes
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.planning.host_memory import AXES_SAMPLE_ROWS
from nomad_dask.planning.plan import MAX_AXES, N_PATCHES, Plan

# Work areas of the libraries.
_BASE_BYTES = 256 << 20
# Copies of a block and of the sample while they are computed with.
_BLOCK_COPIES, _SAMPLE_COPIES = 3, 4
# Area of the bounding box of a map, in map units^dim: a minimum, and an amount per row; twice what was measured.
_MAP_AREA = {2: (50_000, 4), 3: (4_000_000, 100)}


def host_bytes_for_stages(memory_bytes: int, on_gpu: bool) -> int:
    """Return what the stages of a run may take of the host memory of a process."""
    return memory_bytes - GPU_HOST_BYTES if on_gpu else memory_bytes


def block_device_bytes(plan: Plan) -> int:
    """Return the GPU memory for copies of a block, in its own dtype and as float32."""
    return _BASE_BYTES + _BLOCK_COPIES * plan.block_rows * plan.n_dims * (4 + plan.source_itemsize)


def clustering_device_bytes(plan: Plan) -> int:
    """Return the GPU memory to fit the axes to a part of the sample, and the cells to its coordinates."""
    rows_of_axes = min(plan.sample_rows, AXES_SAMPLE_ROWS)
    elements = max(rows_of_axes * plan.n_dims, plan.sample_rows * min(plan.n_dims, MAX_AXES))
    return _BASE_BYTES + _SAMPLE_COPIES * 4 * elements


def layout_stage_device_bytes(plan: Plan) -> int:
    """Return the GPU memory of all shards of a worker."""
    dim = plan.n_components
    base_area, area_per_row = _MAP_AREA[dim]
    n_nodes = int(min(MAX_MESH_NODES, (base_area + area_per_row * plan.n_rows) / plan.mesh_spacing**dim))
    n_patches = N_PATCHES if plan.n_shards > 1 else 1
    n_edges = 2 * plan.n_linked_rows * plan.shard_rows
    per_point = not plan.has_weight_codes
    shard = layout_device_bytes(plan.shard_rows, n_edges, n_nodes, n_patches, dim, per_point)
    joint = 0
    if plan.n_shards > 1 and plan.has_weight_codes:
        joint = joint_device_bytes(plan.n_rows, plan.shards_per_worker * plan.shard_rows, dim)
    return _BASE_BYTES + plan.shards_per_worker * shard + joint
