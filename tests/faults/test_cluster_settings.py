"""Clusters that allow no failures, that adapt, that kill workers at once, and that are quiet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dask.config
import numpy as np
import pytest

from nomad_dask.callbacks import EpochDone, Event
from nomad_dask.cluster import connect
from nomad_dask.errors import ClusterError
from tests.helpers.processes import scheduler_process
from tests.helpers.runs import blobs, cluster_of, make_map, worker_processes

# A test that takes longer is called a hang.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_size": 50}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1000)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> np.ndarray:
    return make_map(x, **SETTINGS).positions


@pytest.fixture(scope="module")
def strict() -> Iterator[Any]:
    """Yield a client whose scheduler gives a task up when one worker has died in it."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), worker_processes(2) as client:
        yield client


def die_once(file: str) -> int:
    if not os.path.exists(file):  # noqa: PTH110
        open(file, "w").close()  # noqa: PTH123
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_a_task_runs_again_where_no_failure_is_allowed(tmp_path, strict):
    assert cluster_of(strict).run(die_once, [(str(tmp_path / "died"),)]) == [7]


def end_the_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_always_kills_is_given_up_there_too(strict):
    with pytest.raises(ClusterError, match="4 workers died one after another in the same task"):
        cluster_of(strict).run(end_the_process, [()])


class Once:
    """Does something with the address and the process of a worker, once, after an epoch."""

    def __init__(self, client: Any, deed: Callable[[str, int], Any]) -> None:
        self.client, self.deed, self.is_done = client, deed, False

    def __call__(self, event: Event) -> None:
        if not self.is_done and isinstance(event, EpochDone) and event.epoch == 10:
            self.is_done = True
            self.deed(*min(self.client.run(os.getpid).items()))


def test_a_killed_worker_does_not_change_the_map_where_no_failure_is_allowed(x, undisturbed, strict):
    strict.wait_for_workers(2, timeout=60)
    once = Once(strict, lambda address, pid: os.kill(pid, signal.SIGKILL))
    np.testing.assert_array_equal(make_map(x, client=strict, emit=once, **SETTINGS).positions, undisturbed)
    assert once.is_done


def test_a_retired_worker_does_not_change_the_map_where_no_failure_is_allowed(x, undisturbed):
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), worker_processes(2) as client:
        once = Once(client, lambda address, pid: client.retire_workers([address]))
        np.testing.assert_array_equal(make_map(x, client=client, emit=once, **SETTINGS).positions, undisturbed)
        assert once.is_done
        assert len(client.scheduler_info()["workers"]) == 1


def test_a_worker_that_dies_during_the_checks_is_replaced(tmp_path, strict):
    strict.wait_for_workers(2, timeout=60)
    answers = cluster_of(strict).run_on_workers(die_once, str(tmp_path / "died"))
    assert set(answers.values()) == {7}


def test_workers_that_always_die_during_the_checks(strict):
    strict.wait_for_workers(2, timeout=60)
    with pytest.raises(ClusterError, match=r"Workers die before they answer, .* takes too much memory\. Give workers"):
        cluster_of(strict).run_on_workers(end_the_process)


def test_a_cluster_that_adapts_from_none(x, undisturbed):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.adapt(minimum=0, maximum=2, interval="200ms")
        np.testing.assert_array_equal(make_map(x, client=client, **SETTINGS).positions, undisturbed)


def test_overlapping_embedded_clusters_write_no_log(capfd):
    first_is_open, second_is_open = threading.Event(), threading.Event()

    def open_first() -> None:
        with connect():
            first_is_open.set()
            assert second_is_open.wait(60)

    thread = threading.Thread(target=open_first)
    thread.start()
    assert first_is_open.wait(60)
    with connect():
        second_is_open.set()
        thread.join(60)
    assert capfd.readouterr().err == ""


def test_a_scheduler_that_is_killed_leaves_one_message(tmp_path, x, capfd):
    with scheduler_process(tmp_path / "cluster", n_workers=1) as started:

        def emit(event: Event) -> None:
            if isinstance(event, EpochDone) and event.epoch == 3:
                started.process.kill()

        with pytest.raises(ClusterError, match="is gone: start it again"):
            make_map(x, scheduler=started.address, emit=emit, **SETTINGS)
    assert capfd.readouterr().err == ""
