"""Worker processes that are killed: the map is the one that was to be, and it is told that one was lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from runs import Heard, blobs, make_map, worker_processes

from nomad_dask.events import CheckpointWritten, EpochDone, Event, StageStarted, WorkerLost

EPOCHS = 40
SETTINGS = {"n_shards": 4, "n_epochs": EPOCHS, "cell_rows": 50}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1200)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> np.ndarray:
    return make_map(x, **SETTINGS).positions


@pytest.fixture
def client() -> Iterator[Any]:
    """Two workers of their own for every test: what one has killed does not meet the next."""
    with worker_processes(2) as client:
        yield client


class Killer:
    """Kills one worker process, once, when an event is the awaited one."""

    def __init__(self, client: Any, awaited: Callable[[Event], bool]) -> None:
        self.client, self.awaited = client, awaited
        self.address: str | None = None

    def __call__(self, event: Event) -> None:
        if self.address is None and self.awaited(event):
            pids = self.client.run(os.getpid)
            self.address = sorted(pids)[0]
            os.kill(pids[self.address], signal.SIGKILL)


def killed_map(x: np.ndarray, client: Any, awaited: Callable[[Event], bool]) -> tuple[np.ndarray, Heard, str]:
    heard, killer = Heard(), Killer(client, awaited)

    def emit(event: Event) -> None:
        heard(event)
        killer(event)

    positions = make_map(x, client=client, emit=emit, **SETTINGS).positions
    assert killer.address is not None
    return positions, heard, killer.address


def after_epoch(epoch: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, EpochDone) and event.epoch == epoch


def test_no_worker_is_called_lost_when_none_is(x, undisturbed, client):
    heard = Heard()
    positions = make_map(x, client=client, emit=heard, **SETTINGS).positions
    np.testing.assert_array_equal(positions, undisturbed)
    assert heard.of(WorkerLost) == []


def test_killed_during_the_layout(x, undisturbed, client):
    positions, heard, address = killed_map(x, client, after_epoch(12))
    np.testing.assert_array_equal(positions, undisturbed)
    lost = heard.of(WorkerLost)
    assert {event.address for event in lost} == {address}
    assert len(lost) <= 2, "its two shards were lost once, then they had a new home"


def test_killed_during_the_layout_after_a_checkpoint(x, undisturbed, client, monkeypatch):
    monkeypatch.setattr("nomad_dask.layout.driver._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("nomad_dask.layout.driver._CHECKPOINT_COST", 0)
    positions, heard, _ = killed_map(x, client, after_epoch(12))
    np.testing.assert_array_equal(positions, undisturbed)
    assert [event.epoch for event in heard.of(CheckpointWritten)] == list(range(1, EPOCHS + 1))
    assert heard.of(WorkerLost)


def test_killed_before_the_last_checkpoint(x, undisturbed, client):
    positions, heard, address = killed_map(x, client, after_epoch(EPOCHS))
    np.testing.assert_array_equal(positions, undisturbed)
    assert {event.address for event in heard.of(WorkerLost)} == {address}


@pytest.mark.parametrize("stage", ["sample", "shards", "neighbors"])
def test_killed_when_a_stage_begins(x, undisturbed, client, stage):
    positions, _, _ = killed_map(x, client, lambda event: isinstance(event, StageStarted) and event.stage == stage)
    np.testing.assert_array_equal(positions, undisturbed)
