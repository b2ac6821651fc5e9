"""Two worker processes on one GPU: a map of two shards, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nomad_dask.backends import devices
from nomad_dask.callbacks import EpochDone, Event, ShardPlaced, WorkerLost
from nomad_dask.cluster import Cluster
from tests.helpers.gpu_card import assert_as_good, gpu_workers
from tests.helpers.runs import EventLog, blobs, make_map

pytestmark = pytest.mark.gpu

# Shards exchange summaries: workers that share a GPU cannot join, but one worker would lay out both shards jointly.
SETTINGS: dict[str, Any] = {"device": "gpu", "n_shards": 2, "n_epochs": 100, "sync_every": 2}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(20_000, 48, 60)


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with gpu_workers(2) as client:
        yield client


@pytest.fixture(scope="module")
def two_shards(x: np.ndarray, workers: Any) -> np.ndarray:
    return make_map(x, client=workers, **SETTINGS).positions


def test_both_workers_share_the_gpu(workers):
    cluster = Cluster(workers, in_process=False)
    cluster.choose_device("auto")
    assert cluster.device == "gpu"
    found = list(cluster.gpus.values())
    assert len(found) == 2
    assert found[0].uuid == found[1].uuid
    assert cluster.gpu_bytes() == devices.memory_share(cluster.gpus) <= min(g.free_bytes for g in found) // 2


def test_each_lays_out_a_shard(x, workers):
    event_log = EventLog()
    make_map(x[:12_000], client=workers, emit=event_log, **(SETTINGS | {"n_epochs": 3}))
    placed = event_log.of(ShardPlaced)
    assert sorted(p.shard for p in placed) == [0, 1]
    assert len({p.worker for p in placed}) == 2
    assert all(p.device.startswith("GPU ") for p in placed)


def test_as_good_as_two_shards_on_the_cpu(x, two_shards):
    cpu = make_map(x, **(SETTINGS | {"device": "cpu"}))
    assert_as_good(x, two_shards, cpu.positions)


def test_as_both_shards_on_one_worker(x, two_shards):
    with gpu_workers(1) as client:
        np.testing.assert_array_equal(make_map(x, client=client, **SETTINGS).positions, two_shards)


def test_a_joint_layout_is_as_good_as_one_shard(x):
    with gpu_workers(1) as client:
        joint = make_map(x, client=client, **(SETTINGS | {"sync_every": 1})).positions
        one = make_map(x, client=client, **(SETTINGS | {"n_shards": 1})).positions
    assert_as_good(x, joint, one)


def test_workers_that_share_a_gpu_do_not_join(x, workers, caplog):
    make_map(x[:12_000], client=workers, **(SETTINGS | {"sync_every": 1, "n_epochs": 3}))
    assert "not laid out jointly (several workers share a GPU)" in caplog.text


def test_as_both_shards_on_an_embedded_cluster(x, two_shards):
    """Its memory comes from the driver's pool."""
    np.testing.assert_array_equal(make_map(x, n_workers=1, **SETTINGS).positions, two_shards)


def test_a_killed_worker_does_not_change_the_map(x, two_shards):
    event_log = EventLog()
    with gpu_workers(2) as client:

        def emit(event: Event) -> None:
            event_log(event)
            if isinstance(event, EpochDone) and event.epoch == 30:
                os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)

        positions = make_map(x, client=client, emit=emit, **SETTINGS).positions
    assert event_log.of(WorkerLost)
    np.testing.assert_array_equal(positions, two_shards)
