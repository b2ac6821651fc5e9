"""The counts of bytes and operations agree with what the backend does, run on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_prediction
from benchmarks.gpu_kernels import moved_bytes
from nomad_dask.backends import kmeans_tree
from nomad_dask.backends.data import ListLengths
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.gpu.lloyd import N_ITERATIONS, N_TRIALS
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.stages import stages_of_run
from tests.helpers.gpu_card import near_graph, with_codes
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.runs import blobs


@dataclass(frozen=True)
class Counting(HostRuntime):
    """Counts products in half precision, and uploaded bytes."""

    products: list[int] = field(default_factory=list)
    uploaded: list[int] = field(default_factory=list)

    def multiply_half(self, queries: Any, targets: Any, products: Any, jobs: np.ndarray) -> None:
        self.products.append(int((jobs[:, 1] * jobs[:, 3]).sum()))
        super().multiply_half(queries, targets, products, jobs)

    def upload_into(self, target: np.ndarray, array: np.ndarray) -> None:
        self.uploaded.append(array.nbytes)
        super().upload_into(target, array)


def amount(works: Any, what: str, name: str) -> float:
    return float(sum(work.amounts[name] for work in works if work.what == what))


@pytest.mark.parametrize("n_probes", [2, 5])
def test_products_of_the_neighbor_search(tmp_path, n_probes):
    runtime = Counting()
    backend = GpuBackend(runtime)
    x = blobs(1500, 24, 12)
    plan = gpu_prediction.plan_of(len(x), 24, "float32", Params(n_cells=30))
    cells = backend.fit_cells(x, plan.n_cells, 0)
    labels = backend.assign(x, cells)
    np.save(tmp_path / "rows.npy", x[np.argsort(labels, kind="stable")])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    vectors = ShardVectors([(tmp_path / "rows.npy", 0, len(x))])
    primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 26, len(x))
    primitives.build_filter(None)
    before = sum(runtime.products)
    primitives.probe(ListLengths(15, 11), n_probes, 64, lambda done: None)
    done = 2 * 24 * (sum(runtime.products) - before)
    counted = amount(gpu_prediction.neighbors_work(plan, n_probes), "products", "float16")
    # Rows are in larger cells more often than in small ones, and rows with few others nearby probe more.
    assert 0.9 * counted < done < 2 * counted


@dataclass(frozen=True)
class CountingDistances(HostRuntime):
    """Counts pairs of rows and centers that are compared, and pairs of rows and seeds but for those of parents."""

    compared: list[int] = field(default_factory=list)
    of_seeds: list[int] = field(default_factory=list)

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        if kernel == "nearest_center":
            table = args[3]
            self.compared.append(int((table[:, 1] * table[:, 3]).sum()))
        elif kernel == "choose_seeds" and args[4] > 1:
            self.of_seeds.append(int((np.diff(args[2]) * np.diff(args[3])).sum()))
        super().launch(kernel, dim, n_items, *args)


def test_distances_of_k_means(monkeypatch):
    monkeypatch.setattr(kmeans_tree, "MAX_FLAT_CELLS", 20)
    runtime = CountingDistances()
    x = np.random.default_rng(0).uniform(size=(3072, 3)).astype(np.float32)
    GpuBackend(runtime).fit_cells(x, 144, 0)
    works = list(gpu_prediction.kmeans_work(len(x), 144, 3))
    counted = amount(works, f"{N_ITERATIONS} iterations of two levels of K-Means", "float32")
    assert counted == pytest.approx(2 * 3 * sum(runtime.compared), rel=0.1)
    counted = amount(works, "seeds of K-Means", "float32")
    assert counted == pytest.approx(3 * N_TRIALS * 3 * sum(runtime.of_seeds), rel=0.1)


def test_edges_that_are_uploaded():
    runtime = Counting()
    n = 900
    graph = with_codes(near_graph(n))
    GpuBackend(runtime).create_layout(graph, Params(), n)
    plan = gpu_prediction.plan_of(n, 8, "float32", Params())
    n_edges = len(graph.indices)
    counted = amount(gpu_prediction.layout_work(plan, Params()), "upload edges", "link")
    assert counted / (2 * n * plan.n_linked_rows) * n_edges == pytest.approx(sum(runtime.uploaded), rel=0.1)


def test_epochs_are_those_of_the_schedule():
    n_rows, params = 10_000_000, Params()
    plan = gpu_prediction.plan_of(n_rows, 64, "float32", params)
    n_epochs = make_schedule(params, n_rows).n_epochs
    works = list(gpu_prediction.layout_work(plan, params))
    counted = amount(works, f"{n_epochs} epochs: watch", "GPU memory")
    assert counted == n_epochs * moved_bytes(n_rows, 1)["watch"]


def test_every_stage_is_counted_and_grows_with_the_rows():
    few, many = (list(gpu_prediction.works(n, 64, "float32", Params())) for n in (5_000_000, 50_000_000))
    assert {work.stage for work in many} == {stage.name for stage in stages_of_run(has_coarse_map=True)}
    for stage in stages_of_run(has_coarse_map=True):
        if stage.name != "cells":  # whose sample is bounded
            ratio = (sum(w.seconds("H200") for w in works if w.stage == stage.name) for works in (many, few))
            assert 8 < next(ratio) / next(ratio) < 30
    assert all(work.seconds("H200") <= work.seconds("H100") for work in many)
    assert {work.is_on_gpu for work in many if work.what == "symmetric graph"} == {True}
    assert [work.is_on_gpu for work in many if work.what == "merge runs"] == [False]


def test_the_page_says_that_nothing_was_measured():
    page = gpu_prediction.page()
    assert "**Computed, not measured.**" in page
    assert "## 60,000,000 rows of 768 dimensions, float16" in page
    for rate in (*gpu_prediction.HOST, "GPU memory", "float16", "float32"):
        assert f"| {rate}" in page
