"""New rows move by the forces of brute force, and stored rows do not move."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.data import NewRowGraph, StepParams


def step(rate: float, momentum: float = 0.0, exaggeration: float = 1.0) -> StepParams:
    return StepParams(0, rate, momentum, 1e9, exaggeration)


def brute_force_gradient(stored: np.ndarray, graph: NewRowGraph, points: np.ndarray, exaggeration: float) -> np.ndarray:
    """Return what a step of learning rate 1 adds, in float64."""
    stored, points = stored.astype(np.float64), points.astype(np.float64)
    differences = points[:, None] - np.concatenate([stored, points])
    q = 1 / (1 + (differences**2).sum(axis=2))
    repulsion = (q[:, :, None] ** 2 * differences).sum(axis=1)
    towards = points[:, None] - stored[graph.neighbors]
    pull = graph.weights / (1 + (towards**2).sum(axis=2)) * (graph.neighbors >= 0)
    attraction = (pull[:, :, None] * towards).sum(axis=1)
    return np.asarray(2 * (graph.repulsion_factor * repulsion - exaggeration * attraction))


@pytest.fixture(params=[2, 3])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, NewRowGraph]:
    """A map of two groups, and new rows among them, of which one has a single neighbor."""
    rng, dim = np.random.default_rng(0), request.param
    stored = np.concatenate([rng.normal(size=(2500, dim)) * 6, 30 + rng.normal(size=(2500, dim)) * 3]).astype(
        np.float32
    )
    neighbors = rng.integers(0, len(stored), (400, 5))
    neighbors[17, 1:] = -1
    start = stored[neighbors[:, 0]] + rng.normal(size=(400, dim)).astype(np.float32)
    weights = np.array([0.8, 0.5, 0.3, 0.2, 0.2], np.float32)
    return stored, NewRowGraph(start.astype(np.float32), neighbors, weights, 0.02)


@pytest.mark.parametrize("exaggeration", [1.0, 0.5])
def test_one_step_is_that_of_brute_force(backend, case, exaggeration):
    stored, graph = case
    before = stored.copy(), graph.start.copy()
    moved = backend.place_new_rows(stored, graph, 0.5, [step(0.1, exaggeration=exaggeration)])
    expected = 0.1 * brute_force_gradient(stored, graph, graph.start, exaggeration)
    np.testing.assert_allclose(moved - graph.start, expected, atol=0.02 * np.abs(expected).max())
    for now, then in zip((stored, graph.start), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_momentum_carries_steps_on(backend, case):
    stored, graph = case
    steps = [step(0.1, momentum=0.5), step(0.0, momentum=0.5), step(0.0, momentum=0.5)]
    first, third = (backend.place_new_rows(stored, graph, 0.5, steps[:n]) - graph.start for n in (1, 3))
    np.testing.assert_allclose(third, 1.75 * first, rtol=1e-3, atol=1e-4)


def test_the_longest_step(backend, case):
    stored, graph = case
    moved = backend.place_new_rows(stored, graph, 0.5, [StepParams(0, 100.0, 0.0, 0.25, 1.0)]) - graph.start
    assert np.linalg.norm(moved, axis=1).max() < 0.2501
