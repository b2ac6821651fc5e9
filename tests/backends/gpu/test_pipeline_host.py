"""Whole maps with the GPU backend on Dask worker processes, with its kernels on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import ShardPlaced
from nomad_dask.metrics.scores import ConfidenceInterval, score
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes

N_ROWS, N_EPOCHS, N_QUERIES = 1000, 40, 400


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(N_ROWS)


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with device_workers(2) as client:
        yield client


def device_workers(n: int) -> Any:
    """Return a client of workers that use the host runtime instead of a CUDA device."""
    # By module name, which the processes find on their path: Dask would copy a file away from its dependencies.
    return worker_processes(n, preload="tests.helpers.host_runtime")


def positions_on(client: Any, x: np.ndarray, device: str, **settings: Any) -> np.ndarray:
    result = make_map(x, client=client, device=device, n_epochs=N_EPOCHS, **settings)
    assert result.positions.shape == (len(x), settings.get("n_components", 2))
    assert np.isfinite(result.positions).all()
    return result.positions


def holds(estimate: ConfidenceInterval, value: float) -> bool:
    return estimate.low <= value <= estimate.high


@pytest.fixture(scope="module")
def two_shards(x: np.ndarray, workers: Any) -> np.ndarray:
    """A map of two shards, on two workers."""
    return positions_on(workers, x[:600], "gpu", n_shards=2)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_as_good_as_the_map_of_the_cpu(x, workers, n_shards):
    """From the same start: that of init='mds' depends on the cells, and the backends draw others."""
    # A short tail, as there are few rows: with more, larger neighborhoods count for more than the nearest ten.
    settings = {"n_shards": n_shards, "init": "pca", "n_tail_neighbors": 8}
    gpu, cpu = (positions_on(workers, x, device, **settings) for device in ("gpu", "cpu"))
    ours, theirs = (score(x, positions, n_queries=N_QUERIES) for positions in (gpu, cpu))
    assert holds(theirs.neighbors[10], ours.neighbors[10].value), (ours.neighbors[10], theirs.neighbors[10])
    assert holds(theirs.triplets, ours.triplets.value), (ours.triplets, theirs.triplets)
    assert ours.neighbors[10].value > 0.25  # 0.28 measured


def test_the_same_seed_gives_the_same_bits(x, workers, two_shards):
    np.testing.assert_array_equal(positions_on(workers, x[:600], "gpu", n_shards=2), two_shards)


def test_two_shards_on_one_worker(x, two_shards):
    with device_workers(1) as client:
        np.testing.assert_array_equal(positions_on(client, x[:600], "gpu", n_shards=2), two_shards)


def test_each_worker_lays_out_a_shard_on_its_device(x, workers):
    """With device='auto', because every worker reports a GPU."""
    event_log = EventLog()
    make_map(x[:600], client=workers, device="auto", n_epochs=2, n_shards=2, emit=event_log)
    placed = event_log.of(ShardPlaced)
    assert sorted(p.shard for p in placed) == [0, 1]
    assert len({p.worker for p in placed}) == 2
    assert all("host" in p.device for p in placed)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_components": 3},
        {"normalization": "point", "repulsion_method": "means", "metric": "cosine", "n_negatives": 4},
        {"normalization": "point", "coarse_init": "always", "affinity": "inverse"},
    ],
    ids=["solid", "the paper's", "coarse"],
)
def test_other_settings(x, workers, settings, monkeypatch):
    x = x[:800]
    monkeypatch.setattr("nomad_dask.planning.planner.COARSE_MIN_ROWS", 50)
    ours, theirs = (positions_on(workers, x, device, n_shards=2, **settings) for device in ("gpu", "cpu"))
    got, expected = (score(x, p, metric=settings.get("metric", "euclidean")) for p in (ours, theirs))
    assert got.neighbors[10].value == pytest.approx(expected.neighbors[10].value, abs=0.03)
    assert got.triplets.value == pytest.approx(expected.triplets.value, abs=0.03)
