"""Several runs on one cluster, workers that join late, and workers that differ."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import CheckpointWritten, Event, StageStarted
from tests.helpers.processes import scheduler_process
from tests.helpers.runs import blobs, make_map, worker_processes

# A test that takes longer is called a hang.
pytestmark = pytest.mark.timeout(120)
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_size": 50}


def test_concurrent_fits_make_the_same_maps_as_separate_ones():
    """The same data with other seeds: shapes would fit if one used the arrays of the other."""
    inputs = [(blobs(1500, 16), seed) for seed in range(2)]
    alone = [make_map(x, random_state=seed, **SETTINGS).positions for x, seed in inputs]
    made: dict[int, np.ndarray] = {}
    meet = threading.Barrier(2)
    with worker_processes(2) as first:
        from distributed import Client

        with Client(first.scheduler.address, set_as_default=False) as second:

            def fit(i: int, client: Any) -> None:
                def emit(event: Event) -> None:
                    if isinstance(event, StageStarted) and event.stage == "layout":
                        meet.wait(60)

                x, seed = inputs[i]
                made[i] = make_map(x, random_state=seed, client=client, emit=emit, **SETTINGS).positions

            threads = [threading.Thread(target=fit, args=(i, c)) for i, c in enumerate((first, second))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    for i in range(2):
        np.testing.assert_array_equal(made[i], alone[i])


def test_a_worker_that_joins_late_is_used(tmp_path, checkpoints_at_once):
    """From the next stage on, and in the layout from the next checkpoint on."""
    x = blobs(1500, 16)
    plain = make_map(x, **SETTINGS).positions
    used: set[str] = set()
    with scheduler_process(tmp_path / "cluster", n_workers=1) as started:

        def emit(event: Event) -> None:
            if isinstance(event, CheckpointWritten) and event.epoch == 5:
                started.add_worker()
                started.wait_for_workers(2)
            if isinstance(event, CheckpointWritten) and event.epoch == 20:
                used.update(workers_with_shards(started.address))

        positions = make_map(x, scheduler=started.address, emit=emit, **SETTINGS).positions
    np.testing.assert_array_equal(positions, plain)
    assert len(used) == 2, "one shard moved to the new worker"


def workers_with_shards(address: str) -> set[str]:
    from distributed import Client

    def shards_here(dask_worker: Any) -> int:
        from nomad_dask.cluster import get_worker_state
        from nomad_dask.layout.worker import LoadedShards

        return len(get_worker_state(dask_worker).get(LoadedShards))

    with Client(address, set_as_default=False) as client:
        return {worker for worker, count in client.run(shards_here).items() if count}


def test_workers_that_differ(tmp_path):
    """In threads and memory, which are known before the plan is made."""
    from nomad_dask.cluster import connect

    x = blobs(1500, 16)
    plain = make_map(x, **SETTINGS).positions
    with scheduler_process(tmp_path / "cluster") as started:
        started.add_worker("--nthreads", "1", "--memory-limit", "1GiB")
        started.add_worker("--nthreads", "3", "--memory-limit", "3GiB")
        started.wait_for_workers(2)
        with connect(scheduler=started.address) as cluster:
            known = sorted((w.threads, w.memory_bytes >> 30) for w in cluster.workers())
            assert known == [(1, 1), (3, 3)]
        positions = make_map(x, scheduler=started.address, **SETTINGS).positions
        assert [w.poll() for w in started.workers] == [None, None]
    np.testing.assert_array_equal(positions, plain)
