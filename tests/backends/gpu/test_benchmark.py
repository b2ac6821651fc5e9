"""The benchmark of the GPU, run on the host: its computations, counts and output."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.helpers.host_card import HostCard
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.runs import worker_processes

pytestmark = pytest.mark.usefixtures("process_runtime")


@pytest.fixture
def recorder(monkeypatch):
    """Return a list, and a function that appends a snapshot of a record to it."""
    records: list[dict[str, Any]] = []
    return records, lambda record: records.append(json.loads(json.dumps(record)))


def test_rows_follow_from_their_number_and_the_seed():
    from benchmarks.gpu_data import MixtureSource

    source = MixtureSource(5000)
    x = source.read(0, 5000)
    assert (x.shape, x.dtype) == ((5000, 64), np.float32)
    parts = [source.read(a, b) for a, b in ((0, 1), (1, 777), (777, 5000))]
    np.testing.assert_array_equal(np.concatenate(parts), x)
    there = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(there.read(40, 90), x[40:90])
    assert there.fingerprint() == source.fingerprint() != MixtureSource(5000, seed=1).fingerprint()
    assert (MixtureSource(5000, seed=1).read(0, 50) == x[:50]).mean() < 0.01


def test_rows_are_normal_around_the_centers_of_their_groups():
    """With one group, mean and variance of every axis are known, and axes are independent."""
    from benchmarks.gpu_data import MixtureSource

    source = MixtureSource(40_000, n_dims=8, n_groups=1)
    x = source.read(0, source.n_rows).astype(np.float64)
    widths = source._widths[0] * 0.9 ** np.arange(8)
    assert np.abs((x.mean(axis=0) - source._centers[0]) / widths).max() < 5 / np.sqrt(len(x))
    np.testing.assert_allclose(x.std(axis=0), widths, rtol=0.02)
    assert np.abs(np.corrcoef(x.T) - np.eye(8)).max() < 5 / np.sqrt(len(x))
    assert np.abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < 5 / np.sqrt(len(x))


def test_ceilings_count_bytes_and_operations(monkeypatch):
    from benchmarks import gpu_card

    class Slow(HostCard):
        def seconds(self, work, repeats=7):
            work()
            return 2.0

    found = gpu_card.ceilings(Slow(), n_bytes=1 << 20, n=64)
    assert found == {"copy_bytes_s": 1 << 20} | {f"{k}_flop_s": 64**3 for k in ("float16", "TF32", "float32")}


def test_kernels(recorder):
    from benchmarks import gpu_kernels

    records, add_record = recorder
    gpu_kernels.kernels(HostCard(), 900, add_record)
    assert [len(record["kernels"]) for record in records] == [2, 3, 5]
    found = records[-1]
    must = gpu_kernels.moved_bytes(900, int(np.prod(found["mesh"])))
    assert list(found["kernels"]) == list(must) == ["deposit", "field", "step", "watch", "patch_moments"]
    for name, one in found["kernels"].items():
        assert one["bytes"] == must[name]
        assert one["ns_a_point"] == pytest.approx(one["seconds"] / 900 * 1e9)
        assert one["share_of_copy"] == pytest.approx(
            one["bytes"] / max(one["seconds"], 1e-12) / found["copy_bytes_s"]
        )  # fmt: skip


def test_points_are_as_dense_as_in_a_map_and_edges_connect_nearby_rows():
    from benchmarks import gpu_kernels

    n = 20_000
    points = gpu_kernels.points_of(HostCard(), n)
    assert n / np.prod(np.ptp(points, axis=0)) == pytest.approx(2, rel=0.1)
    assert np.median(np.linalg.norm(np.diff(points, axis=0), axis=1)) < 8
    targets = gpu_kernels.targets_of(HostCard(), n)
    assert targets.shape == (n, gpu_kernels.EDGES)
    assert targets.min() >= 0
    assert targets.max() < n
    apart = np.abs(targets - np.arange(n)[:, None])
    assert (apart < 128).mean() == pytest.approx(0.7, abs=0.02)
    assert apart.max() <= 8192


def test_moments_are_those_of_patches_as_a_run_of_two_shards_has_them(monkeypatch):
    from benchmarks import gpu_kernels
    from nomad_dask.planning.plan import N_PATCHES

    # As many rows a patch as 20 million have.
    n, n_patches = 20_000, N_PATCHES // 2 // 1000
    monkeypatch.setattr(gpu_kernels, "_N_PATCHES", n_patches)
    launched: list[tuple[Any, ...]] = []
    launch = HostRuntime.launch
    monkeypatch.setattr(
        HostRuntime, "launch", lambda self, name, *args: launched.append((name, *args)) or launch(self, name, *args)
    )
    points = gpu_kernels.points_of(HostCard(), n)
    gpu_kernels._looks(HostCard(), points)
    _, dim, items, _, order, offsets, count, out = next(args for args in launched if args[0] == "patch_moments")
    assert (dim, items, count) == (2, 8 * len(out), len(out))
    assert n_patches * 0.9 <= len(out) <= n_patches
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    sizes = np.diff(offsets)
    assert sizes.min() >= 1
    # Small ones near the other shard, larger ones elsewhere, and none nearly as large as the shard.
    assert np.quantile(sizes, 0.9) < 30 < sizes.max() < n / 5
    means = [points[order[a:b]].astype(np.float64).mean(axis=0) for a, b in pairwise(offsets)]
    np.testing.assert_allclose(out[:, :2], means, rtol=1e-5)


def test_epochs(monkeypatch):
    from benchmarks import gpu_kernels
    from nomad_dask.backends.gpu.backend import GpuBackend

    graphs: list[Any] = []
    create = GpuBackend.create_layout
    monkeypatch.setattr(
        GpuBackend, "create_layout", lambda self, graph, *args: graphs.append(graph) or create(self, graph, *args)
    )
    monkeypatch.setattr(gpu_kernels, "_EPOCHS", 2)
    found = gpu_kernels.epoch(HostCard(), 1500)
    assert found["epoch_s"] > 0
    assert found["bytes"] > 1500 * 8 * gpu_kernels.EDGES
    # As that of a run's only shard: no patches, and weights as codes.
    assert graphs[0].n_rows == 1500
    assert len(graphs[0].patch_of_row) == len(graphs[0].patch_counts) == 0
    assert graphs[0].weight_codes.dtype == np.uint8
    np.testing.assert_allclose(graphs[0].weights[graphs[0].weight_codes], 1 / gpu_kernels.EDGES)


def test_neighbors(tmp_path, recorder, monkeypatch):
    from benchmarks import gpu_vectors

    monkeypatch.setattr("nomad_dask.neighbors.search.SMALL_SHARD", 100)  # or every row is compared with all
    records, add_record = recorder
    n = 1000
    gpu_vectors.neighbors(HostCard(), n, tmp_path, add_record, matrix=64)
    made = records[-1]["methods"]
    assert made["nomad_dask, all distances"]["recall"] == 1
    assert records[-1]["n_probes"] < records[-1]["n_cells"]
    assert made["nomad_dask"]["recall"] >= 0.9
    assert made["nomad_dask"]["recall"] == pytest.approx(records[-1]["recall_told"], abs=0.05)
    for one in made.values():
        if "failed" not in one:
            assert one["rows_s"] == pytest.approx(n / one["seconds"])
    exhaustive = made["nomad_dask, all distances"]
    assert exhaustive["distances_s"] == pytest.approx(n**2 / exhaustive["seconds"])
    assert len(records) >= 3
    assert set(records[0]["methods"]) == {"nomad_dask"}


def test_lists_of_other_libraries_may_include_the_row_itself():
    from benchmarks.gpu_vectors import _without_themselves

    ids = np.array([[0, 2, 1], [2, 0, 1], [1, 0, 3], [3, 3, 0]])
    ids[3] = [2, 1, 3]
    np.testing.assert_array_equal(_without_themselves(ids), [[2, 1], [2, 0], [1, 0], [2, 1]])


def test_recall_counts_rows_as_near_as_the_true_neighbors():
    from benchmarks.gpu_vectors import _true_distances, recall_of

    x = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    order = np.argsort(((x[:, None] - x) ** 2).sum(axis=2), axis=1)[:, 1:]
    true = _true_distances(HostCard(), x)
    assert recall_of(HostCard(), x, order[:, :15], true) == 1
    assert recall_of(HostCard(), x, np.where(np.arange(15) < 5, order[:, :15], -1), true) == pytest.approx(1 / 3)
    assert recall_of(HostCard(), x, order[:, 15:30], true) == 0


def test_whole_maps(tmp_path, recorder):
    """On a worker process that runs the kernels on the host."""
    from benchmarks import gpu_vectors

    records, add_record = recorder
    with worker_processes(1, preload="tests.helpers.host_runtime") as client:
        gpu_vectors.whole_map(800, tmp_path, add_record, client, n_epochs=4)
    made, scored = records
    assert {"sample", "cells", "shards", "neighbors", "layout"} <= set(made["stages"])
    assert sum(made["stages"].values()) <= made["seconds"]
    assert "host" in made["devices"][0]
    assert "scores" not in made
    assert 0 < scored["scores"]["NP@10"]["value"] <= 1
    assert 0.5 < scored["scores"]["RTA"]["value"] <= 1
    assert not list(tmp_path.iterdir())


def test_the_script_for_the_sanitizer_launches_every_kernel():
    from tests.helpers import every_kernel

    launched = every_kernel.launch_all(HostRuntime())
    assert every_kernel.missing(launched) == []
    assert every_kernel.missing(launched - {("step", 3), ("scan", 2)}) == ["scan in 2-D", "step in 3-D"]
