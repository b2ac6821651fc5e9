"""Hosts with separate addresses make the same map, also when the network of one is cut."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import EpochDone, Event, ShardPlaced, StageStarted, WorkerLost
from nomad_dask.cluster import Cluster
from nomad_dask.errors import ClusterError
from nomad_dask.maps import read_map
from tests.helpers import network
from tests.helpers.processes import run_nomad
from tests.helpers.runs import EventLog, blobs, make_map

# A test that takes longer is called a hang. The longest wait in it is that for a worker to be called lost.
LOST_SECONDS = 6
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EPOCHS = 30
SETTINGS = {"n_shards": 4, "n_epochs": EPOCHS, "cell_size": 50}


@pytest.fixture(scope="module", autouse=True)
def _hosts_can_be_made() -> None:
    why = network.lacks()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(4000, 16)


@pytest.fixture(scope="module")
def in_one_process(x: np.ndarray) -> np.ndarray:
    return make_map(x, **SETTINGS).positions


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[network.Network, Any]]:
    """Two hosts and a client of their workers, for tests that leave both unchanged."""
    log = tmp_path_factory.mktemp("hosts") / "log"
    with network.hosts(2, rtt_ms=1, mbit=1000) as net, network.cluster(net, log) as client:
        yield net, client


class Once:
    """Calls a function once, at a given event."""

    def __init__(self, awaited: Callable[[Event], bool], deed: Callable[[], Any]) -> None:
        self.awaited, self.deed, self.done = awaited, deed, False

    def __call__(self, event: Event) -> None:
        if not self.done and self.awaited(event):
            self.done = True
            self.deed()


def after_epoch(epoch: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, EpochDone) and event.epoch == epoch


def when_begins(stage: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StageStarted) and event.stage == stage


def cut_for(host: network.Host, seconds: float) -> Callable[[], None]:
    def cut() -> None:
        host.cut()
        threading.Timer(seconds, host.mend).start()

    return cut


def disturbed(x: np.ndarray, client: Any, once: Once) -> tuple[np.ndarray, EventLog]:
    event_log = EventLog()

    def emit(event: Event) -> None:
        event_log(event)
        once(event)

    positions = make_map(x, client=client, emit=emit, **SETTINGS).positions
    assert once.done
    return positions, event_log


def test_two_hosts_make_the_map_of_one_process(x, in_one_process, two_hosts):
    net, client = two_hosts
    event_log = EventLog()
    before = sum(host.sent_bytes() + host.received_bytes() for host in net.hosts)
    positions = make_map(x, client=client, emit=event_log, **SETTINGS).positions
    crossed = sum(host.sent_bytes() + host.received_bytes() for host in net.hosts) - before
    np.testing.assert_array_equal(positions, in_one_process)
    homes = {event.worker.rpartition(":")[0] for event in event_log.of(ShardPlaced)}
    assert homes == {f"tcp://{host.address}" for host in net.hosts}
    exchanged = sum(event.exchanged_bytes for event in event_log.of(EpochDone))
    assert crossed > exchanged / 2 > 0, "summaries were sent over the network"


@pytest.mark.parametrize("moment", [when_begins("neighbors"), after_epoch(10)], ids=["neighbors", "layout"])
def test_a_restored_network_does_not_change_the_map(x, in_one_process, two_hosts, moment):
    net, client = two_hosts
    positions, event_log = disturbed(x, client, Once(moment, cut_for(net.hosts[0], 2.0)))
    np.testing.assert_array_equal(positions, in_one_process)
    assert event_log.of(WorkerLost) == []


def test_the_shards_of_a_disconnected_host_move_to_the_others(x, in_one_process, tmp_path):
    with (
        network.hosts(2) as net,
        network.cluster(net, tmp_path / "log", tcp_seconds=11, lost_seconds=LOST_SECONDS) as client,
    ):
        cut, left = net.hosts
        positions, event_log = disturbed(x, client, Once(after_epoch(10), cut.cut))
        np.testing.assert_array_equal(positions, in_one_process)
        assert {event.address.rpartition(":")[0] for event in event_log.of(WorkerLost)} == {f"tcp://{cut.address}"}
        assert [w.address.rpartition(":")[0] for w in Cluster(client, False).workers()] == [f"tcp://{left.address}"]


def test_a_disconnected_driver_ends_with_an_error_and_resumes(x, in_one_process, tmp_path):
    np.save(tmp_path / "x.npy", x)
    out, workspace = tmp_path / "map.parquet", tmp_path / "workspace"
    with network.hosts(2) as net:
        far, near = net.hosts
        with network.cluster(net, tmp_path / "log", tcp_seconds=11, workers=[near]) as client:
            fit = [sys.executable, "-c", "from nomad_dask.cli import main; main()", "fit", str(tmp_path / "x.npy")]
            fit += ["-o", str(out), "--workspace", str(workspace), "--scheduler", client.scheduler.address, "-v"]
            fit += ["--shards", "4", "--epochs", str(EPOCHS), "--set", "cell_size=50"]
            bounds = {
                "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
                "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
                "DASK_NOMAD_DASK__LOST_AFTER": "5",
            }
            driver = far.start(fit, env=os.environ | bounds, stderr=subprocess.PIPE, text=True)
            for line in driver.stderr:
                if line.startswith("shards:"):
                    far.cut()
                    break
            _, message = driver.communicate(timeout=60)
            assert driver.returncode == ClusterError.exit_code
            assert "run the same again" in message
            assert not out.exists()
            far.mend()
            assert run_nomad(*fit[3:], "--resume").returncode == 0
    np.testing.assert_array_equal(read_map(out).positions, in_one_process)
