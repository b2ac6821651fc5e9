"""Positions of new rows on a finished map, whose rows do not move."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.cpu.force_kernels import Edges, StepFactors, force_kernels
from nomad_dask.backends.data import NewRowGraph, StepParams
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.utils.threads import Threads

_ROW_CHUNK = 1 << 13

f32 = np.float32


def place_new_rows(
    stored: np.ndarray, graph: NewRowGraph, mesh_spacing: float, steps: list[StepParams], pool: Threads
) -> np.ndarray:
    """Return positions (n, dim) float32 of new rows after some epochs; see `Backend.place_new_rows`."""
    n, dim = graph.start.shape
    field = _FrozenField(stored, mesh_spacing, pool)
    edges = _edges(stored, graph)
    move = force_kernels(dim, False).move
    positions, moved = np.array(graph.start, np.float32), np.empty((n, dim), np.float32)
    velocity, repulsion = np.zeros((n, dim), np.float32), np.empty((n, dim), np.float32)
    for step in steps:
        field.repel(positions, repulsion)
        factors = _factors(graph, step)
        arrays = positions, velocity, repulsion
        pool.run(partial(_move_rows, move, arrays, edges, factors, moved), n, _ROW_CHUNK)
        positions, moved = moved, positions
    return positions


def _move_rows(
    move: Any, arrays: tuple[np.ndarray, ...], edges: Edges, factors: StepFactors, moved: np.ndarray, a: int, b: int
) -> None:
    move(*arrays, a, b, edges, factors, moved)


def _factors(graph: NewRowGraph, step: StepParams) -> StepFactors:
    numbers = graph.repulsion_factor, step.exaggeration, step.learning_rate, step.momentum, step.max_step_norm
    return StepFactors(*map(f32, numbers))


class _FrozenField:
    """The repulsion of new rows by stored ones, whose field is computed once, and by each other."""

    def __init__(self, stored: np.ndarray, mesh_spacing: float, pool: Threads) -> None:
        dim = stored.shape[1]
        nothing, no_weights = np.empty((0, dim), np.float32), np.empty(0, np.float32)
        self._field = Field(dim, mesh_spacing, MAX_MESH_NODES, pool)
        self._mesh = self._field.cover(stored, nothing)
        self._coefficients = self._field.solve(self._mesh, stored, no_weights, nothing, no_weights)

    def repel(self, points: np.ndarray, repulsion: np.ndarray) -> None:
        """Write R = −½∇U (n, dim) at the points."""
        potential, gradient = np.empty(len(points), np.float32), np.empty_like(points)
        self._field.read(self._mesh, self._coefficients, points, potential, gradient)
        nothing, no_weights = np.empty((0, points.shape[1]), np.float32), np.empty(0, np.float32)
        self._field.evaluate(points, no_weights, nothing, no_weights, potential, repulsion)
        repulsion += gradient
        repulsion *= f32(-0.5)


def _edges(stored: np.ndarray, graph: NewRowGraph) -> Edges:
    """Return the edges to the stored rows, each of which is a patch of one row without variance."""
    n, dim = graph.start.shape
    found = graph.neighbors >= 0
    used, patches = np.unique(graph.neighbors[found], return_inverse=True)
    moments = np.zeros((len(used), dim + 1), np.float32)
    moments[:, :dim] = stored[used]
    weights = np.broadcast_to(graph.weights, found.shape)
    return Edges(
        np.zeros(n + 1, np.int64),
        np.empty(0, np.int32),
        np.empty(0, np.float32),
        np.empty(0, np.uint8),
        moments,
        np.append(0, np.cumsum(found.sum(axis=1))),
        patches.astype(np.int32),
        weights[found],
    )
