"""The same seed gives the same bits: in each stage, to locate a difference, and in whole maps."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.data import StepParams
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.params import Params
from tests.helpers.gpu_card import grown, near_graph, remote_of
from tests.helpers.repeats import repeated_axes, repeated_cells, repeated_epochs, repeated_neighbors
from tests.helpers.runs import blobs, make_map

pytestmark = pytest.mark.gpu
TIMES = 4


@pytest.fixture(scope="module")
def backend():
    made = GpuBackend(PROCESS_RUNTIME.get())
    yield made
    made.close()


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(40_000, 48, 60)


def assert_all_equal(results: list[tuple[np.ndarray, ...]]) -> None:
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_axes(backend, x):
    assert_all_equal(repeated_axes(backend, x, TIMES))


@pytest.mark.parametrize("n_cells", [200, 4500])
def test_cells(backend, x, n_cells):
    assert_all_equal(repeated_cells(backend, x, n_cells, TIMES))


def test_neighbors(backend, x, tmp_path):
    assert_all_equal(repeated_neighbors(backend, x, 200, tmp_path, TIMES))


@pytest.mark.parametrize(
    ("n", "dim", "normalization", "repulsion"),
    [
        (300_000, 2, "global", "field"),
        (60_000, 3, "global", "field"),
        (100_000, 2, "point", "field"),
        (30_000, 2, "point", "means"),
        (700, 2, "global", "field"),
    ],
)
def test_epochs(backend, n, dim, normalization, repulsion):
    assert_all_equal(repeated_epochs(backend, n, dim, normalization, repulsion, TIMES))


def test_a_replayed_graph_equals_direct_launches(backend, monkeypatch):
    n = 50_000
    graph, positions = near_graph(n, n_far=200), grown(n, 2) / 3
    remote = remote_of(graph, 2, 200, 50.0)
    results = []
    for captured in (True, False):
        if not captured:
            monkeypatch.setattr(type(backend.runtime), "capture", lambda self, work: work)
        one = backend.create_layout(graph, Params(), n)
        one.load(positions, np.zeros_like(positions))
        for e in range(12):
            one.run_epoch(StepParams(e, 0.2, 0.5, 5.0, 1.0), remote)
        results.append((*one.copy_state(), one.patch_moments()))
    assert_all_equal(results)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_whole_maps(worker, x, n_shards):
    first, second = (make_map(x, client=worker, device="gpu", n_shards=n_shards, n_epochs=80) for _ in range(2))
    np.testing.assert_array_equal(second.cell_labels, first.cell_labels)
    np.testing.assert_array_equal(second.positions, first.positions)
    other = make_map(x, client=worker, device="gpu", n_shards=n_shards, n_epochs=80, random_state=1)
    assert not np.array_equal(other.positions, first.positions)
