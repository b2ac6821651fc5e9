"""The same seed gives the same map, bit for bit, however the work is distributed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nomad_dask import cluster as cluster_module
from nomad_dask.callbacks import EpochDone
from nomad_dask.cluster import Cluster
from nomad_dask.params import Params
from tests.helpers.runs import EventLog, blobs, in_batches, make_map, worker_processes

SETTINGS: dict[str, Any] = {"n_epochs": 30, "cell_size": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1500)


@pytest.fixture(scope="module")
def three_shards(x: np.ndarray) -> np.ndarray:
    return make_map(x, n_shards=3, **SETTINGS).positions


def test_twice_in_a_row(x, three_shards):
    np.testing.assert_array_equal(make_map(x, n_shards=3, **SETTINGS).positions, three_shards)


def test_another_seed_gives_another_map(x, three_shards):
    assert not np.array_equal(make_map(x, n_shards=3, random_state=1, **SETTINGS).positions, three_shards)


@pytest.mark.parametrize(
    "options",
    [{"n_shards": 1}, {"n_shards": 3}, {"n_shards": 3, "repulsion_method": "means", "normalization": "point"}],
    ids=["one shard", "shards", "the paper's"],
)
def test_any_number_of_threads(options):
    """Enough rows for several chunks of every kernel, a filter in the search, and a mesh."""
    from distributed import Client, LocalCluster

    x = blobs(8400, n_dims=200)
    maps = []
    for n_threads in (1, 3):
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=n_threads, processes=False, dashboard_address="127.0.0.1:0"
            ) as local,
            Client(local, set_as_default=False) as client,
        ):
            maps.append(make_map(x, client=client, n_epochs=3, **options).positions)
    np.testing.assert_array_equal(maps[1], maps[0])


def test_one_core_and_all_cores(x, three_shards):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        positions = make_map(x, n_shards=3, **SETTINGS).positions
    finally:
        os.sched_setaffinity(0, cores)
    np.testing.assert_array_equal(positions, three_shards)


def test_little_memory_for_vectors(monkeypatch):
    """Rows read from disk in parts give the same as rows held in memory.

    But for candidates at the end of the filter's lists, whose distances are products of blocks of other sizes and so
    rounded differently: of longer tails than these, one of 130,000 edges differs.
    """
    x = blobs(3000, n_dims=200)
    settings: dict[str, Any] = {"n_epochs": 3, "n_shards": 1, "n_tail_neighbors": 8}
    held = make_map(x, **settings).positions
    monkeypatch.setattr(
        "nomad_dask.planning.planner._with_batches", lambda plan, memory: replace(plan, cache_bytes=1 << 19)
    )
    np.testing.assert_array_equal(make_map(x, **settings).positions, held)


def test_search_in_batches_on_one_and_on_many_workers(x):
    with in_batches(3):
        one = make_map(x, n_shards=2, **SETTINGS).positions
        with worker_processes(2) as client:
            np.testing.assert_array_equal(make_map(x, n_shards=2, client=client, **SETTINGS).positions, one)


@pytest.mark.parametrize("normalization", ["global", "point"])
def test_little_memory_for_edges(x, three_shards, tmp_path, monkeypatch, normalization):
    """Edges are read from disk in every epoch, except where their weights change in every epoch."""
    settings = SETTINGS | {"n_shards": 3, "normalization": normalization}
    is_default = normalization == Params().normalization
    held = three_shards if is_default else make_map(x, **settings).positions
    for name in ("_EDGE_BYTES", "CODED_EDGE_BYTES"):
        monkeypatch.setattr(f"nomad_dask.planning.host_memory.{name}", 1 << 40)
    monkeypatch.setattr("nomad_dask.pipeline.run.check_resources", lambda *_: None)
    positions = make_map(x, workspace=tmp_path / "w", keep_stages=True, **settings).positions
    np.testing.assert_array_equal(positions, held)
    plan = json.loads((tmp_path / "w" / "manifest.json").read_text())["about"]["plan"]
    assert plan["edges_in_memory"] == (normalization == "point")


def test_worker_processes(x, three_shards):
    with worker_processes(2) as client:
        positions = make_map(x, n_shards=3, client=client, **SETTINGS).positions
    np.testing.assert_array_equal(positions, three_shards)


@pytest.mark.parametrize("repulsion", ["field", "means"])
def test_worker_processes_with_infrequent_exchanges(x, repulsion):
    settings = SETTINGS | {"n_shards": 3, "sync_every": 2, "repulsion_method": repulsion}
    event_log = EventLog()
    expected = make_map(x, emit=event_log, **settings).positions
    exchange_epochs = [event.epoch for event in event_log.of(EpochDone) if event.exchanged_bytes]
    assert exchange_epochs[:9] == [1, 3, 5, 7, 9, 11, 13, 14, 16]
    with worker_processes(2) as client:
        positions = make_map(x, client=client, **settings).positions
    np.testing.assert_array_equal(positions, expected)


def test_embedded_worker_processes(x, three_shards):
    positions = make_map(x, n_shards=3, n_workers=2, **SETTINGS).positions
    np.testing.assert_array_equal(positions, three_shards)


def disturb_the_order(seed: int) -> None:
    """Delay the start and end of every task of this process by different times."""
    import random
    import time

    from nomad_dask.cluster import tasks

    draw, run_task = random.Random(seed), tasks.run_task

    def late(*args: Any) -> Any:
        time.sleep(draw.random() * 0.01)
        result = run_task(*args)
        time.sleep(draw.random() * 0.01)
        return result

    tasks.run_task = late


def shuffled(run: Callable[..., list[Any]], draw: random.Random) -> Callable[..., list[Any]]:
    """Return `Cluster.run` with the jobs submitted in another order."""

    def run_shuffled(
        self: Cluster,
        task: Any,
        jobs: Sequence[Any],
        advanced: Any = None,
        workers: Sequence[str] | None = None,
    ) -> list[Any]:
        order = draw.sample(range(len(jobs)), len(jobs))
        answers = run(
            self, task, [jobs[i] for i in order], advanced, None if workers is None else [workers[i] for i in order]
        )
        return [answers[order.index(i)] for i in range(len(jobs))]

    return run_shuffled


def test_another_order_of_completion(x, three_shards, monkeypatch):
    monkeypatch.setattr(cluster_module.Cluster, "run", shuffled(cluster_module.Cluster.run, random.Random(1)))
    with worker_processes(3) as client:
        for seed, address in enumerate(client.scheduler_info(n_workers=-1)["workers"]):
            client.run(disturb_the_order, seed, workers=[address])
        positions = make_map(x, n_shards=3, client=client, **SETTINGS).positions
    np.testing.assert_array_equal(positions, three_shards)


def test_small_blocks_of_the_source(x, monkeypatch):
    """Rows get the same cells; products of other sizes round differently, so positions are nearly the same."""
    whole = make_map(x, n_shards=3, n_epochs=5)
    monkeypatch.setattr("nomad_dask.planning.planner._MAX_BLOCK_BYTES", 4 * 20 * 400)
    in_parts = make_map(x, n_shards=3, n_epochs=5)
    np.testing.assert_array_equal(in_parts.cell_labels, whole.cell_labels)
    np.testing.assert_allclose(in_parts.positions, whole.positions, atol=1e-2)
