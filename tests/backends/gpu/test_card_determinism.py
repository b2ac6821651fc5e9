"""The same seed gives the same bits: in each stage, to locate a difference, and in whole maps."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.base import StepParams
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.params import Params
from tests.helpers.gpu_card import grown, near_graph, remote_of
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
    made = [backend.fit_axes(x, 20, 0) for _ in range(TIMES)]
    assert_all_equal([(a.components, a.mean, np.array(a.std)) for a in made])


@pytest.mark.parametrize("n_cells", [200, 4500])
def test_cells(backend, x, n_cells):
    made = [backend.fit_cells(x, n_cells, 0) for _ in range(TIMES)]
    assert_all_equal([(c.centroids, c.parents, c.offsets, backend.assign(x, c)) for c in made])


def test_neighbors(backend, x, tmp_path):
    cells = backend.fit_cells(x, 200, 0)
    labels = backend.assign(x, cells)
    np.save(tmp_path / "rows.npy", x[np.argsort(labels, kind="stable")])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    results = []
    for _ in range(TIMES):
        vectors = ShardVectors([(tmp_path / "rows.npy", 0, len(x))], cache_bytes=1 << 30)
        primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 30, len(x))
        found = find_neighbors(
            primitives, 15, n_probes=None, target_recall=0.95, seed=0, on_progress=lambda done: None
        )  # fmt: skip
        results.append((found.ids, found.distances, np.array(found.recall)))
    assert_all_equal(results)


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
    """With enough epochs that captured launches are replayed and the mesh changes its shape."""
    graph, positions = near_graph(n, n_far=200), grown(n, dim) / 3
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=4)
    remotes = [remote_of(graph, dim, 200, 50.0, seed) for seed in range(4)]
    results = []
    for _ in range(TIMES):
        one = backend.create_layout(graph, params, 2 * n)
        one.load(positions, np.zeros_like(positions))
        epochs = [
            one.run_epoch(StepParams(e, 0.5, 0.8, 5.0, 1.0, measure_loss=e % 5 == 0), remotes[e // 5])
            for e in range(20)
        ]
        losses = [outcome.loss or 0.0 for outcome in epochs]
        results.append(
            (*one.copy_state(), one.patch_moments(), np.array([t.partition_sum for t in epochs]), np.array(losses))
        )
    assert_all_equal(results)


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
