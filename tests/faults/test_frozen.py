"""Workers that are frozen (SIGSTOP) and continue later: their tasks move to others within a time limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from nomad_dask.callbacks import EpochDone, Event, StageStarted
from nomad_dask.cluster import connect
from nomad_dask.errors import ClusterError
from tests.helpers.processes import scheduler_process
from tests.helpers.runs import blobs, make_map

# A test that takes longer is called a hang.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
EPOCHS = 30
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": EPOCHS, "cell_size": 50}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(2000, 16)


@pytest.fixture(scope="module")
def data(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return path


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> np.ndarray:
    return make_map(x, **SETTINGS).positions


class Freezer:
    """Freezes a process at a given event."""

    def __init__(self, stage_or_epoch: str | int) -> None:
        self.moment = stage_or_epoch
        self.pid: int | None = None

    def is_time(self, event: Event) -> bool:
        if self.pid is not None:
            return False
        if isinstance(event, StageStarted):
            return event.stage == self.moment
        return isinstance(event, EpochDone) and event.epoch == self.moment

    def freeze(self, pid: int) -> None:
        self.pid = pid
        os.kill(pid, signal.SIGSTOP)


def test_a_frozen_worker_of_an_embedded_cluster_is_replaced(data, undisturbed, monkeypatch):
    """By its scheduler, which waits at most eight seconds for a heartbeat here."""
    monkeypatch.setattr("nomad_dask.cluster.cpu_cluster.WORKER_TTL_SECONDS", 8)
    freezer = Freezer(10)
    with connect(n_workers=2) as own:

        def emit(event: Event) -> None:
            if freezer.is_time(event):
                freezer.freeze(min(own.client.run(os.getpid).values()))

        positions = make_map(data, client=own.client, emit=emit, **SETTINGS).positions
        assert freezer.pid is not None
        with suppress(psutil.NoSuchProcess):  # the others do not wait for its end, which may come later
            psutil.Process(freezer.pid).wait(60)
    np.testing.assert_array_equal(positions, undisturbed)


def test_a_briefly_frozen_worker_continues(data, undisturbed, tmp_path):
    """Shorter than all time limits: the run waits for it."""
    freezer = Freezer("neighbors")
    with scheduler_process(tmp_path / "cluster", n_workers=2) as started:

        def emit(event: Event) -> None:
            if freezer.is_time(event):
                freezer.freeze(started.workers[0].pid)
                wake_later(started.workers[0].pid, 3.0)

        positions = make_map(data, scheduler=started.address, emit=emit, **SETTINGS).positions
        assert [w.poll() for w in started.workers] == [None, None]
    np.testing.assert_array_equal(positions, undisturbed)


def wake_later(pid: int, seconds: float) -> None:
    threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()


@contextmanager
def frozen_after(seconds: float) -> Iterator[None]:
    import dask.config

    with dask.config.set({"nomad-dask.frozen-after": seconds}):
        yield


@pytest.mark.parametrize("moment", ["shards", 10])
def test_a_frozen_worker_of_a_running_scheduler_is_abandoned(data, undisturbed, tmp_path, moment):
    """The scheduler's own limit is five minutes. The worker ends when it continues after its tasks have moved."""
    freezer = Freezer(moment)
    with scheduler_process(tmp_path / "cluster", n_workers=2) as started, frozen_after(4.0):

        def emit(event: Event) -> None:
            if freezer.is_time(event):
                freezer.freeze(started.workers[0].pid)
            if isinstance(event, EpochDone) and event.epoch == EPOCHS - 5 and freezer.pid is not None:
                os.kill(freezer.pid, signal.SIGCONT)

        positions = make_map(data, scheduler=started.address, emit=emit, **SETTINGS).positions
        started.workers[0].wait(30)
        again = make_map(data, scheduler=started.address, **SETTINGS).positions
    np.testing.assert_array_equal(positions, undisturbed)
    np.testing.assert_array_equal(again, undisturbed)


def test_a_frozen_scheduler_raises_an_error_in_time(tmp_path):
    import dask.config

    with (
        scheduler_process(tmp_path / "cluster", n_workers=1) as started,
        dask.config.set({"nomad-dask.lost-after": 5}),
        connect(scheduler=started.address) as cluster,
    ):
        threading.Timer(1.0, os.kill, (started.process.pid, signal.SIGSTOP)).start()
        with pytest.raises(ClusterError, match=r"has not answered for [\d.]+ s: .*run the same again"):
            cluster.run(time.sleep, [(1000.0,)])


def test_a_long_silent_task_is_no_failure(tmp_path):
    """Its worker still sends heartbeats."""
    with (
        scheduler_process(tmp_path / "cluster", n_workers=1) as started,
        frozen_after(2.0),
        connect(scheduler=started.address) as cluster,
    ):
        assert cluster.run(time.sleep, [(6.0,)]) == [None]
