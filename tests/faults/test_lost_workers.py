"""Worker processes that are killed: the map is the same, and the loss is reported."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import CheckpointWritten, EpochDone, Event, StageStarted, WorkerLost
from nomad_dask.cluster import Cluster
from nomad_dask.cluster.task_batch import TaskBatch
from nomad_dask.cluster.watchdog import call_scheduler
from nomad_dask.errors import ClusterError
from tests.helpers.runs import EventLog, blobs, cluster_of, make_map, worker_processes

# A test that takes longer is called a hang.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
EPOCHS = 24
SETTINGS = {"n_shards": 4, "n_epochs": EPOCHS, "cell_size": 50}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1200)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> np.ndarray:
    return make_map(x, **SETTINGS).positions


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with worker_processes(2) as client:
        yield client


@pytest.fixture
def client(cluster: Any) -> Any:
    """A client of both workers, restarted by their nannies if the last test has killed them."""
    cluster.wait_for_workers(2, timeout=60)
    return cluster


class Killer:
    """Kills one worker process or all, once, at a given event."""

    def __init__(self, client: Any, awaited: Callable[[Event], bool], how_many: int = 1) -> None:
        self.client, self.awaited, self.how_many = client, awaited, how_many
        self.address: str | None = None

    def __call__(self, event: Event) -> None:
        if self.address is None and self.awaited(event):
            pids = self.client.run(os.getpid)
            self.address = sorted(pids)[0]
            for address in sorted(pids)[: self.how_many]:
                os.kill(pids[address], signal.SIGKILL)


def killed_map(
    x: np.ndarray, client: Any, awaited: Callable[[Event], bool], how_many: int = 1, **more: Any
) -> tuple[np.ndarray, EventLog, str]:
    event_log, killer = EventLog(), Killer(client, awaited, how_many)

    def emit(event: Event) -> None:
        event_log(event)
        killer(event)

    positions = make_map(x, client=client, emit=emit, **(SETTINGS | more)).positions
    assert killer.address is not None
    return positions, event_log, killer.address


def after_epoch(epoch: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, EpochDone) and event.epoch == epoch


def test_no_loss_is_reported_when_there_is_none(x, undisturbed, client):
    event_log = EventLog()
    positions = make_map(x, client=client, emit=event_log, **SETTINGS).positions
    np.testing.assert_array_equal(positions, undisturbed)
    assert event_log.of(WorkerLost) == []


def test_killed_during_the_layout(x, undisturbed, client):
    positions, event_log, address = killed_map(x, client, after_epoch(12))
    np.testing.assert_array_equal(positions, undisturbed)
    lost = event_log.of(WorkerLost)
    assert {event.address for event in lost} == {address}
    assert len(lost) <= 2, "its two shards were lost once, then they had a new home"


def test_killed_during_the_layout_after_a_checkpoint(x, undisturbed, client, checkpoints_at_once):
    positions, event_log, _ = killed_map(x, client, after_epoch(12))
    np.testing.assert_array_equal(positions, undisturbed)
    assert [event.epoch for event in event_log.of(CheckpointWritten)] == list(range(1, EPOCHS + 1))
    assert event_log.of(WorkerLost)


def test_killed_between_infrequent_exchanges(x, client, checkpoints_at_once):
    """The shards catch up batch by batch, each with the summaries of that time."""
    settings = SETTINGS | {"sync_every": 3}
    expected = make_map(x, client=client, **settings).positions
    positions, event_log, _ = killed_map(x, client, after_epoch(20), sync_every=3)
    np.testing.assert_array_equal(positions, expected)
    assert event_log.of(WorkerLost)


def test_killed_before_the_last_checkpoint(x, undisturbed, client):
    positions, event_log, address = killed_map(x, client, after_epoch(EPOCHS))
    np.testing.assert_array_equal(positions, undisturbed)
    assert {event.address for event in event_log.of(WorkerLost)} == {address}


def when_begins(stage: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StageStarted) and event.stage == stage


@pytest.mark.parametrize(
    ("stage", "how_many"),
    [("sample", 1), ("cells", 1), ("shards", 1), ("neighbors", 1), ("layout", 1), ("cells", 2), ("neighbors", 2)],
)
def test_killed_when_a_stage_starts(x, undisturbed, client, stage, how_many):
    """One worker, or all: then the run waits for those that their nannies start."""
    positions, _, _ = killed_map(x, client, when_begins(stage), how_many)
    np.testing.assert_array_equal(positions, undisturbed)


@pytest.mark.parametrize("epoch", random.Random(5).sample(range(1, EPOCHS), 2))
def test_all_killed_at_random_epochs(x, undisturbed, client, epoch):
    positions, event_log, _ = killed_map(x, client, after_epoch(epoch), how_many=2)
    np.testing.assert_array_equal(positions, undisturbed)
    assert event_log.of(WorkerLost)


def test_killed_in_the_middle_of_tasks(x, undisturbed, client):
    """At random times during tasks, the same in every run of the test."""
    draw = random.Random(3)

    def emit(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage in ("shards", "layout"):
            pid = draw.choice(sorted(client.run(os.getpid).values()))
            threading.Timer(draw.uniform(0.01, 0.2), kill, (pid,)).start()

    positions = make_map(x, client=client, emit=emit, **SETTINGS).positions
    np.testing.assert_array_equal(positions, undisturbed)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_killed_during_the_coarse_map(client):
    x, settings = blobs(16_000), SETTINGS | {"coarse_init": "always", "n_epochs": 10}
    plain = make_map(x, **settings).positions
    event_log, killer = EventLog(), Killer(client, when_begins("coarse neighbors"))

    def emit(event: Event) -> None:
        event_log(event)
        killer(event)

    positions = make_map(x, client=client, emit=emit, **settings).positions
    assert killer.address is not None
    np.testing.assert_array_equal(positions, plain)


def test_workers_lost_repeatedly_are_abandoned(x, client, tmp_path, monkeypatch):
    """The run ends with an error and keeps completed work."""
    monkeypatch.setattr("nomad_dask.layout.distributed_layout._MAX_LOSSES", 2)
    monkeypatch.setattr("nomad_dask.layout.optimize._CHECKPOINT_SECONDS", 1e9)  # one would begin the count anew
    monkeypatch.setattr("nomad_dask.layout.optimize._BATCH_SECONDS", 0.0)
    asked = []

    def run(self: Cluster, task: Any, jobs: Any, *args: Any, **more: Any) -> Any:
        if task.__name__ == "run_epochs" and jobs[0][3].start >= 3:
            asked.append(jobs[0][3].start)
            os.kill(sorted(client.run(os.getpid).values())[0], signal.SIGKILL)
        return plain(self, task, jobs, *args, **more)

    plain = Cluster.run
    monkeypatch.setattr(Cluster, "run", run)
    with pytest.raises(ClusterError, match=r"lost 3 times since the last checkpoint of the layout.*is kept in"):
        make_map(x, client=client, workspace=tmp_path / "w", **SETTINGS)
    assert asked == [3, 3, 3]
    monkeypatch.setattr(Cluster, "run", plain)
    again = make_map(x, client=client, workspace=tmp_path / "w", resume=True, **SETTINGS)
    np.testing.assert_array_equal(again.positions, make_map(x, **SETTINGS).positions)


def end_the_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_every_worker_is_abandoned(client):
    """Like a task that uses all memory, for which the system kills one worker after the other."""
    with pytest.raises(ClusterError, match=r"4 workers died .* Give workers more memory, or use more shards"):
        cluster_of(client).run(end_the_process, [()])


def test_all_killed_before_a_result_is_fetched(monkeypatch):
    """Dask then runs the tasks again, except those whose preferred worker is gone."""
    plain, killed = TaskBatch._fetch_result, []

    def late(self: TaskBatch, future: Any) -> Any:
        if not killed:
            killed.extend(self.client.run(os.getpid).values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            while call_scheduler(self.client, "identity", n_workers=-1)["workers"]:
                time.sleep(0.05)
        return plain(self, future)

    monkeypatch.setattr(TaskBatch, "_fetch_result", late)
    with worker_processes(2) as client:
        cluster = cluster_of(client)
        homes = [worker.address for worker in cluster.workers()]
        assert cluster.run(pow, [(2, 3), (3, 3)], workers=homes) == [8, 27]
    assert killed
