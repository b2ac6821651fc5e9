"""Meshes of more than 32,768 nodes along an axis, where float32 no longer tells a node from a thousandth before it.

Cubic B-splines keep the total charge and its center, and they reproduce linear functions: both hold at any position
with a full stencil, and neither needs an implementation to compare with.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nomad_dask.backends.cpu.charge_deposit import _sort_into_bands, add_charges, deposit_points
from nomad_dask.backends.cpu.mesh_kernels import mesh_frame, mesh_kernels
from nomad_dask.backends.gpu.epoch_inputs import make_frame
from nomad_dask.backends.gpu.mesh_levels import padded_shape
from nomad_dask.backends.mesh import Mesh
from nomad_dask.utils.threads import Threads
from tests.helpers.host_runtime import HostRuntime

NONE = np.empty(0, np.float32)
RUNTIME = HostRuntime()
ONE_THREAD = Threads(1)
# Long along the axis of the largest stride, whose stencil ends outside the array, and along the others.
SHAPES = [(32_771, 5), (100_000, 6), (6, 100_000), (100_000, 5, 5), (5, 40_000, 5), (5, 5, 40_000)]

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def long_mesh(shape: tuple[int, ...]) -> Mesh:
    """A mesh whose nodes are at whole numbers."""
    return Mesh((0.0,) * len(shape), 1.0, shape)


def edge_points(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return points in, on and beyond the last cell along the longest axis, and where each is clamped to."""
    axis = int(np.argmax(shape))
    last = shape[axis] - 2
    along = np.array(
        [0.0, 1.0, 1000.25, last - 1.5, last - 0.5, last, last + 0.5, last + 2, 2 * last, 1e30], np.float32
    )
    points = np.full((len(along), len(shape)), 2.0, np.float32)
    points[:, axis] = along
    clamped = points.astype(np.float64)
    clamped[:, axis] = np.clip(along.astype(np.float64), 1, last)
    return points, clamped


def check_charges(density: np.ndarray, clamped: np.ndarray) -> None:
    """Compare total and center of each point's charge with the point."""
    for axis in range(density.ndim):
        others = tuple(a for a in range(density.ndim) if a != axis)
        charges = density.sum(axis=others, dtype=np.float64)
        assert charges.sum() == pytest.approx(len(clamped), rel=1e-6)
        center = charges @ np.arange(len(charges)) / len(clamped)
        # The last position in float32 is up to a 128th before the node.
        assert center == pytest.approx(clamped[:, axis].mean(), abs=0.01)


@given(st.integers(4, 1 << 26))
@example(32_770)
@example(32_771)
@example((1 << 24) + 3)
@example((1 << 25) - 1)
def test_the_stencil_of_the_last_position_is_inside(size):
    upper = Mesh((0.0, 0.0), 1.0, (size, 5)).upper[0]
    assert np.float32(upper) == upper
    assert int(np.float32(upper)) + 2 <= size - 1
    # No more is lost than float32 makes necessary.
    assert upper >= size - 2.0011 - 2 * np.spacing(np.float32(size))


@shapes
def test_the_cpu_deposits_inside(shape):
    points, clamped = edge_points(shape)
    mesh = long_mesh(shape)
    check_charges(deposit_points(mesh, points, NONE, ONE_THREAD), clamped)
    added = np.zeros(shape, np.float32)
    add_charges(mesh, points, np.ones(len(points), np.float32), added)
    check_charges(added, clamped)


@shapes
@pytest.mark.parametrize("way", ["bands", "select"])
def test_the_cpu_writes_nothing_beyond_the_mesh(shape, way):
    points, _ = edge_points(shape)
    mesh, dim = long_mesh(shape), len(shape)
    kernels, frame = mesh_kernels(dim), mesh_frame(mesh)
    if way == "bands":
        ordered, _ = _sort_into_bands(mesh, points, NONE, ONE_THREAD)
    else:
        ordered = np.empty((len(points), dim + 1), np.float32)
        marks = np.ones(1, np.bool_)
        weights = np.ones(len(points), np.float32)
        kernels.select(points, weights, frame, 20, np.ones(dim, np.int64), marks, ordered)
    # What was written beyond the mesh was zero: it shows by the sign, as -0 + 0 is 0.
    memory = np.full(math.prod(shape) + 4 * int(frame.strides[0]), -0.0, np.float32)
    kernels.deposit(ordered, 0, len(points), frame.strides, memory)
    assert np.signbit(memory[math.prod(shape) :]).all()


@shapes
def test_the_cpu_reads_nothing_beyond_the_mesh(shape):
    points, clamped = edge_points(shape)
    axis = int(np.argmax(shape))
    mesh, n = long_mesh(shape), len(points)
    memory = np.full(math.prod(shape) + 4 * int(mesh_frame(mesh).strides[0]), np.nan, np.float32)
    memory[: math.prod(shape)] = np.indices(shape, np.float32)[axis].ravel()
    potential, gradient = np.empty(n, np.float32), np.empty_like(points)
    mesh_kernels(len(shape)).gather(points, 0, n, mesh_frame(mesh), memory, potential, gradient)
    np.testing.assert_allclose(potential, clamped[:, axis], atol=0.03)
    np.testing.assert_allclose(gradient[:, axis], 1, atol=0.02)


@shapes
def test_the_gpu_deposits_inside(shape):
    points, clamped = edge_points(shape)
    mesh, n, scale = long_mesh(shape), np.int64(len(points)), 2.0**40
    fixed = np.zeros(shape, np.int64)
    # The host build refuses atomic operations outside its arrays.
    RUNTIME.launch("deposit", len(shape), len(points), points, None, n, make_frame(mesh, scale), fixed)
    assert fixed.sum() == len(points) * int(scale)
    check_charges(fixed / scale, clamped)


@shapes
def test_the_gpu_reads_the_mesh_only(shape):
    points, clamped = edge_points(shape)
    axis = int(np.argmax(shape))
    mesh, n = long_mesh(shape), len(points)
    padded = np.full(padded_shape(mesh.shape), np.nan, np.float32)
    padded[tuple(slice(s) for s in shape)] = np.indices(shape, np.float32)[axis]
    potential, repulsion = np.empty(n, np.float32), np.empty_like(points)
    frame = make_frame(mesh, 1.0)
    RUNTIME.launch("read_field", len(shape), n, points, np.int64(n), frame, padded, potential, repulsion)
    np.testing.assert_allclose(potential, clamped[:, axis], atol=0.03)
    np.testing.assert_allclose(repulsion[:, axis], -0.5, atol=0.01)
