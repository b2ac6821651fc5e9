"""Results on a GPU compared with the CPU: one step up to float32 rounding, whole maps in quality."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.data import StepParams
from nomad_dask.backends.devices import Gpu, detect_gpu, detect_worker_gpu
from nomad_dask.backends.gpu import field_repulsion
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.params import Params
from tests.helpers.gpu_card import assert_as_good, data_set, grown, near_graph, remote_of, step_differences
from tests.helpers.runs import blobs, make_map

pytestmark = pytest.mark.gpu

STEPS = [
    (200_000, 2, "global", "field", 0),
    (200_000, 2, "global", "field", 300),
    (40_000, 3, "global", "field", 300),
    (150_000, 2, "point", "field", 300),
    (20_000, 3, "point", "field", 0),
    (40_000, 2, "global", "means", 300),
    (40_000, 3, "point", "means", 0),
    (900, 2, "global", "field", 0),
    (900, 3, "point", "field", 20),
]


@pytest.fixture(scope="module")
def backends():
    cpu, gpu = CpuBackend(4), GpuBackend(PROCESS_RUNTIME.get())
    yield cpu, gpu
    cpu.close()
    gpu.close()


def test_the_gpu_is_detected():
    for found in (detect_gpu(with_memory=True), detect_worker_gpu()):
        assert isinstance(found, Gpu), found
        assert found.uuid.startswith("GPU-")
        assert 0 < found.free_bytes <= found.total_bytes


@pytest.mark.parametrize(("n", "dim", "normalization", "repulsion", "n_far"), STEPS)
def test_one_step(backends, n, dim, normalization, repulsion, n_far):
    differences = step_differences(*backends, n, dim, normalization, repulsion, n_far)
    assert max(differences.values()) <= 1, differences


@pytest.mark.parametrize("dim", [2, 3])
def test_the_mesh_agrees_with_the_direct_sum(backends, dim, monkeypatch):
    """The two methods differ by float32 rounding and by the spacing of the mesh."""
    n = 30_000
    graph, positions = near_graph(n), grown(n, dim)
    states = []
    for directly in (False, True):
        monkeypatch.setattr(field_repulsion, "prefers_direct_sum", lambda *_, directly=directly: directly)
        one = backends[1].create_layout(graph, Params(n_components=dim, mesh_spacing=0.35), n)
        one.load(positions, np.zeros_like(positions))
        outcome = one.run_epoch(StepParams(0, 1.0, 0.0, 1e9, 0.0), remote_of(graph, dim, 0, 1.0))
        states.append((outcome.partition_sum, one.copy_state()[1]))
    (z_mesh, by_mesh), (z_direct, directly) = states
    inside = np.abs(positions).max(axis=1) < np.quantile(np.abs(positions), 0.95)
    assert z_mesh == pytest.approx(z_direct, rel=2e-3)
    assert np.quantile(np.abs(by_mesh - directly)[inside], 0.99) < 0.02 * np.sqrt((directly[inside] ** 2).mean())


# --- vectors


def shard_of(folder, x, backend):
    """Write rows sorted by the cells of the CPU; return reader, rows, and offsets and centroids of the cells."""
    cells = backend.fit_cells(x, len(x) // 200, 0)
    labels = backend.assign(x, cells)
    order = np.argsort(labels, kind="stable")
    np.save(folder / "rows.npy", x[order])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    vectors = ShardVectors([(folder / "rows.npy", 0, len(x))], cache_bytes=1 << 30)
    return vectors, x[order], offsets, cells.centroids


def brute(x, rows, k):
    x = x.astype(np.float64)
    gaps = (x[rows] ** 2).sum(1)[:, None] - 2 * x[rows] @ x.T + (x**2).sum(1)
    gaps[np.arange(len(rows)), rows] = np.inf
    return np.argsort(gaps, axis=1, kind="stable")[:, :k]


def overlap(found, true):
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True)])) / true.shape[1]


@pytest.mark.parametrize(("n", "d"), [(20_000, 64), (20_000, 65), (6_000, 784)])
def test_neighbors(backends, tmp_path, n, d):
    """All cells give the true neighbors, some cells those of the CPU, and the target recall is reached."""
    vectors, x, offsets, centroids = shard_of(tmp_path, blobs(n, d, 40), backends[0])
    sample = np.arange(0, n, n // 300)
    true = brute(x, sample, 15)

    def search(backend, **how):
        primitives = backend.create_search(vectors, offsets, centroids, 0, 1 << 30, n)
        how = {"n_probes": None, "target_recall": 0.95, **how}
        return find_neighbors(primitives, 15, seed=0, on_progress=lambda done: None, **how)

    assert overlap(search(backends[1], n_probes=len(centroids)).ids[sample], true) > 0.9995
    cpu, gpu = (search(backend, n_probes=4) for backend in backends)
    assert overlap(gpu.ids, cpu.ids) > 0.999
    same = gpu.ids == cpu.ids
    np.testing.assert_allclose(gpu.distances[same], cpu.distances[same], rtol=2e-5)
    found = search(backends[1])
    assert found.recall >= 0.95
    assert overlap(found.ids[sample], true) > 0.93


@pytest.mark.parametrize("n_cells", [100, 5000])
def test_cells(backends, n_cells):
    """As compact as those of the CPU, in one level and in a tree of two; rows are assigned to the nearest cell."""
    x = blobs(60_000, 32, 40)
    spreads = []
    for backend in backends:
        cells = backend.fit_cells(x, n_cells, 0)
        labels = backend.assign(x, cells)
        spreads.append(float(((x - cells.centroids[labels]) ** 2).sum(dtype=np.float64)))
        counts = np.bincount(labels, minlength=len(cells.centroids))
        assert counts.max() <= 5 * len(x) / n_cells
        own = x[:3000].astype(np.float64)
        gaps = (own**2).sum(1)[:, None] - 2 * own @ cells.centroids.T.astype(np.float64)
        gaps += (cells.centroids.astype(np.float64) ** 2).sum(1)
        assert (gaps.argmin(axis=1) == labels[:3000]).mean() > (0.999 if n_cells <= 4096 else 0.95)
    assert spreads[1] < 1.03 * spreads[0]


# --- whole maps


@pytest.mark.parametrize("name", ["mixture", "fashion", "packages"])
@pytest.mark.parametrize("n_shards", [1, 4])
def test_whole_maps(worker, name, n_shards):
    if n_shards > 1 and name != "mixture":
        pytest.skip("four shards of the smallest data are enough")
    x = data_set(name)
    gpu = make_map(x, client=worker, device="gpu", n_shards=n_shards)
    cpu = make_map(x, device="cpu", n_shards=n_shards)
    assert gpu.diagnostics["recall"] >= 0.95
    assert gpu.diagnostics["loss"] == pytest.approx(cpu.diagnostics["loss"], abs=0.05)
    assert_as_good(x, gpu.positions, cpu.positions)


@pytest.mark.parametrize("settings", [{"n_components": 3}, Params.paper().as_dict()], ids=["solid", "the paper's"])
def test_maps_by_other_settings(worker, settings):
    x = blobs(8000, 40, 20)
    cpu, gpu = (make_map(x, client=worker, device=device, **settings | {"n_epochs": 60}) for device in ("cpu", "gpu"))
    assert_as_good(x, gpu.positions, cpu.positions)
