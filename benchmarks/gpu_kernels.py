"""Time per point of the kernels of the layout, and the bytes that they must move."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.gpu_card import Card, copy_rate, waited
from nomad_dask.backends.data import RemoteState, ShardGraph, StepParams
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.epoch_inputs import NUMBERS, fixed_point_scale, make_frame
from nomad_dask.backends.gpu.mesh_field import DEPOSIT_LANES, MeshField
from nomad_dask.backends.gpu.mesh_levels import level_shapes, padded_shape
from nomad_dask.backends.gpu.runtime import count_blocks
from nomad_dask.backends.kernel_parts import choose_field_mesh
from nomad_dask.backends.memory_model import layout_device_bytes
from nomad_dask.backends.mesh import MAX_MESH_NODES, Mesh, sample_step
from nomad_dask.backends.weight_codes import N_LEVELS
from nomad_dask.neighbors.patches import make_patches
from nomad_dask.params import Params
from nomad_dask.planning.plan import CODED_EDGE_BYTES, N_PATCHES

Tell = Callable[[dict[str, Any]], None]

EDGES = 30
"""Edges per row: 15 neighbors and the rows that have it among theirs."""
# Points per unit of area in a finished map of Fashion-MNIST; rows of a tile are consecutive, like those of a cell.
_DENSITY = 2
_TILE = 8
# Patches of a shard in a map of two; of its rows a tenth, in groups as large as a cell, have edges to the other shard.
_N_PATCHES = N_PATCHES // 2
_LINKED_ROWS, _LINKED_PERIOD = 1 << 10, 10
# Distance of neighbors in the order of rows: within a cell, and within the surrounding cells.
_NEAR, _FAR, _NEAR_SHARE = 128, 8192, 0.7
_PIECE_ROWS = 1 << 20
_EPOCHS = 20
_WARM_EPOCHS = 3  # the first is done plainly, the next two are captured, one for either buffer


def points_of(card: Card, n: int) -> Any:
    """Return positions (n, 2) as dense as in a finished map, with nearby rows close to each other in their order."""
    xp = card.runtime.xp
    a_tile = _DENSITY * _TILE * _TILE
    across = max(1, round(math.sqrt(n / a_tile)))
    rng = xp.random.default_rng(0)
    points = rng.random((n, 2), dtype=np.float32)
    tile = xp.arange(n, dtype=np.int64) // a_tile
    points[:, 0] += (tile % across).astype(np.float32)
    points[:, 1] += (tile // across).astype(np.float32)
    points *= np.float32(_TILE)
    return points


def targets_of(card: Card, n: int) -> Any:
    """Return the targets (n, EDGES) int32 of each row's edges: most close in the order of rows, some farther away."""
    xp = card.runtime.xp
    rng = xp.random.default_rng(1)
    targets = xp.empty((n, EDGES), np.int32)
    for start in range(0, n, _PIECE_ROWS):
        stop = min(start + _PIECE_ROWS, n)
        near = rng.random((stop - start, EDGES), dtype=np.float32) < np.float32(_NEAR_SHARE)
        apart = (rng.random((stop - start, EDGES), dtype=np.float32) * np.float32(2) - np.float32(1)) * xp.where(
            near, np.float32(_NEAR), np.float32(_FAR)
        )
        rows = xp.arange(start, stop, dtype=np.int64)[:, None] + apart.astype(np.int64)
        targets[start:stop] = xp.minimum(xp.maximum(rows, 0), n - 1)
    return targets


def patches_of(n: int) -> np.ndarray:
    """Return the patch (n,) int32 of each row of a shard, made as a run makes them."""
    rows = np.arange(n)
    is_linked = rows // _LINKED_ROWS % _LINKED_PERIOD == 0
    cross_weights = np.where(is_linked, rows * 7919 % 1013 + 1.0, 0.0)
    next_rows = np.minimum(np.arange(1, n + 1), n - 1).astype(np.int32)
    return make_patches(cross_weights, np.arange(n + 1), next_rows, np.ones(n, np.float32), _N_PATCHES)


def mesh_of(card: Card, points: Any) -> Mesh:
    """Return the mesh that a layout would use for the points."""
    download = card.runtime.download
    return choose_field_mesh(
        download(points.min(axis=0)), download(points.max(axis=0)), Params().mesh_spacing, MAX_MESH_NODES
    )


def moved_bytes(n: int, n_nodes: int) -> dict[str, int]:
    """Return the bytes that each part must move, if every array is read and written once and everything else is cached.

    Neighbours' positions and the nodes around a point count once for all points. The mesh is taken to be a square.
    """
    return {
        "deposit": 8 * n + 24 * n_nodes,  # positions; nodes cleared, and there and back
        # charges, what the levels do with them, and the sum that is Z
        "field": 12 * n_nodes + levels_bytes(n_nodes) + 12 * n_nodes,
        # positions and velocities in and out, offsets, the edges, the mesh
        "step": 4 * 8 * n + 8 * n + CODED_EDGE_BYTES * EDGES * n + 4 * n_nodes,
        "watch": 8 * n,
        # positions and their order; offsets and moments of patches
        "patch_moments": 8 * n + 4 * n + (8 + 16) * min(n, _N_PATCHES),
    }


def levels_bytes(n_nodes: int) -> int:
    """Return the bytes that the convolution on all levels of a mesh must move.

    A transform of a padded mesh passes over it once for each of the two axes; the product reads and writes the
    spectrum, and reads that of the kernel. A coarser level reads charges and adds its potential.
    """
    shapes = level_shapes((math.ceil(math.sqrt(n_nodes)),) * 2)
    moved = sum((2 * 2 * 8 + 10) * math.prod(padded_shape(shape)) for shape in shapes)
    for fine, coarse in pairwise(math.prod(shape) for shape in shapes):
        moved += 4 * fine + 4 * coarse + 8 * fine + 4 * coarse
    return moved


def kernels(card: Card, n: int, tell: Tell) -> None:
    """Measure deposit, field, fused step and sampling on a map of `n` points; report after each."""
    rate = copy_rate(card, min(2 << 30, 64 * n))
    points = points_of(card, n)
    mesh = mesh_of(card, points)
    frame = card.runtime.upload(make_frame(mesh, fixed_point_scale(n)).view(np.uint8))
    field = MeshField(2, card.runtime, frame)
    field.set_mesh(mesh)
    must = moved_bytes(n, math.prod(mesh.shape))
    record: dict[str, Any] = {
        "rows": n,
        "copy_bytes_s": rate,
        "mesh": list(mesh.shape),
        "padded": list(padded_shape(mesh.shape)),
        "edges_a_row": EDGES,
        "kernels": {},
    }
    for measure in (
        lambda: _fields(card, points, field, mesh.shape),
        lambda: _step(card, points, field),
        lambda: _looks(card, points),
    ):
        for name, taken in measure().items():
            record["kernels"][name] = {
                "seconds": taken,
                "ns_a_point": taken / n * 1e9,
                "bytes": must[name],
                "share_of_copy": must[name] / max(taken, 1e-12) / rate,
            }
        tell(record)


def _fields(card: Card, points: Any, field: MeshField, shape: tuple[int, ...]) -> dict[str, float]:
    """Measure the deposit alone, and the rest of the field from charges to Z as one graph of launches."""
    runtime, n = card.runtime, len(points)
    xp = runtime.xp
    nothing, none, z = xp.zeros((0, 2), np.float32), xp.zeros(0, np.float32), xp.zeros(1, np.float64)
    charges = xp.zeros(shape, np.int64)

    def solve() -> None:
        field.solve(points, None, nothing, none)
        field.sum_potential(field.charges[0], -float(n), z)

    def deposit() -> None:
        charges.fill(0)
        runtime.launch("deposit", 2, DEPOSIT_LANES * n, points, None, np.int64(n), field.frame, charges)

    deposited = card.seconds(deposit)
    solved = card.seconds(runtime.capture(solve))
    return {"deposit": deposited, "field": max(0.0, solved - deposited)}


def _step(card: Card, points: Any, field: MeshField) -> dict[str, float]:
    """Measure the fused step, with Z from the previous field."""
    runtime, n = card.runtime, len(points)
    xp = runtime.xp
    n_quads = -(-n * EDGES // 4)
    targets, codes = xp.zeros(4 * n_quads, np.int32), xp.zeros(4 * n_quads, np.uint8)
    targets[: n * EDGES] = targets_of(card, n).ravel()
    weights = xp.full(N_LEVELS, 1 / EDGES, np.float32)
    ptr, moments = xp.arange(n + 1, dtype=np.int64) * EDGES, xp.zeros((1, 3), np.float32)
    numbers = np.zeros(1, NUMBERS)
    numbers["n_total"], numbers["factor"], numbers["share"] = n, 2, 1
    numbers["attract"], numbers["rate"], numbers["max_step_norm"] = 1, 0.1, 5
    on_device, z = runtime.upload(numbers.view(np.uint8)), xp.full(1, float(n) * n, np.float64)
    velocity, moved = xp.zeros((n, 2), np.float32), xp.empty((n, 2), np.float32)
    seconds = card.seconds(
        lambda: runtime.launch(
            "step", 2, 8 * n, points, velocity, np.int64(n), field.frame, field.potential, ptr, targets,
            weights, codes, None, None, None, moments, on_device, z, moved, velocity,
        )
    )  # fmt: skip
    return {"step": seconds}


def _looks(card: Card, points: Any) -> dict[str, float]:
    """Measure the summary of all positions after a step."""
    n = len(points)
    xp, launch, upload = card.runtime.xp, card.runtime.launch, card.runtime.upload
    a_step, items = sample_step(n), min(n, 1 << 17)
    sample, box = xp.zeros((-(-n // a_step), 2), np.float32), xp.zeros((count_blocks(items), 2, 2), np.float32)
    patches = patches_of(n)
    counts = np.bincount(patches)
    order, offsets = upload(np.argsort(patches, kind="stable").astype(np.int32)), np.append(0, np.cumsum(counts))
    offsets, told = upload(offsets), xp.zeros((len(counts), 4), np.float32)
    return {
        "watch": card.seconds(lambda: launch("watch", 2, items, points, np.int64(n), np.int64(a_step), sample, box)),
        "patch_moments": card.seconds(
            lambda: launch("patch_moments", 2, 8 * len(counts), points, order, offsets, np.int64(len(counts)), told)
        ),
    }


def epoch(card: Card, n: int) -> dict[str, Any]:
    """Measure whole epochs of a map of `n` points as one shard, as `layout.worker` requests them."""
    runtime = card.runtime
    rate = copy_rate(card, min(2 << 30, 64 * n))
    positions = runtime.download(points_of(card, n))
    none = np.zeros(0, np.float32)
    graph = ShardGraph(
        cell_offsets=np.array([0, n]),
        patch_of_row=np.zeros(0, np.int32),  # no other shard needs patches
        patch_counts=np.zeros(0, np.int64),
        first_patch=0,
        sampled_cells=np.zeros((1, 1), np.int64),
        indptr=np.arange(n + 1, dtype=np.int64) * EDGES,
        indices=runtime.download(targets_of(card, n)).ravel(),
        weights=np.full(N_LEVELS, 1 / EDGES, np.float32),
        weight_codes=np.zeros(n * EDGES, np.uint8),
        conditional_p=None,
        cross_indptr=np.zeros(n + 1, np.int64),
        cross_patches=np.zeros(0, np.int32),
        cross_weights=none,
    )
    remote = RemoteState(np.zeros((0, 3), np.float32), none, np.zeros((0, 2), np.float32), none, 0.0, 1)
    backend = GpuBackend(runtime)
    backend.close()  # what made the graph is not needed any more
    used = card.used_bytes()
    layout = backend.create_layout(graph, Params(), n)
    layout.load(positions, np.zeros_like(positions))

    def run(n_epochs: int) -> None:
        for e in range(n_epochs):
            layout.run_epoch(StepParams(e, 1e-6, 0.0, 5.0, 1.0), remote)

    run(_WARM_EPOCHS)
    _, seconds = waited(card, lambda: run(_EPOCHS))
    used = card.used_bytes() - used
    n_nodes = math.prod(mesh_of(card, runtime.upload(positions)).shape)
    must = moved_bytes(n, n_nodes)
    del must["patch_moments"]
    return {
        "rows": n,
        "copy_bytes_s": rate,
        "edges_a_row": EDGES,
        "layout_bytes": used,
        "planned_layout_bytes": layout_device_bytes(n, EDGES * n, n_nodes, 1),
        "epoch_s": seconds / _EPOCHS,
        "ns_a_point": seconds / _EPOCHS / n * 1e9,
        "bytes": sum(must.values()),
        "share_of_copy": sum(must.values()) / (seconds / _EPOCHS) / rate,
    }
