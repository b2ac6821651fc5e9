"""Whole maps of a joint layout, on workers whose GPU is emulated: where they are, lost workers, and the fallback."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
import pytest

from nomad_dask.callbacks import EpochDone, Event, WorkerLost
from nomad_dask.storage.manifest import CHECKPOINT
from nomad_dask.storage.workspace import Workspace
from tests.backends.gpu.test_pipeline_host import device_workers
from tests.helpers.host_communicator import let_fail
from tests.helpers.runs import EventLog, blobs, make_map

# A test that takes longer is called a hang.
pytestmark = pytest.mark.timeout(180)
N_EPOCHS, N_SHARDS = 12, 4
SETTINGS: dict[str, Any] = {"device": "gpu", "n_shards": N_SHARDS, "n_epochs": N_EPOCHS, "cell_size": 40}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(600)


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with device_workers(2) as client:
        yield client


@pytest.fixture(scope="module")
def on_two_workers(x: np.ndarray, workers: Any) -> np.ndarray:
    return make_map(x, client=workers, **SETTINGS).positions


@pytest.mark.parametrize("n_workers", [1, 4])
def test_the_map_does_not_depend_on_the_number_of_workers(n_workers, x, on_two_workers):
    with device_workers(n_workers) as client:
        np.testing.assert_array_equal(make_map(x, client=client, **SETTINGS).positions, on_two_workers)


def test_the_log_says_nothing_and_the_events_tell_the_bytes(x, workers, caplog):
    event_log = EventLog()
    make_map(x, client=workers, emit=event_log, **SETTINGS)
    assert "jointly" not in caplog.text
    # Direct sums, as there are few rows: positions of all rows, to one other worker.
    exchanged = {event.exchanged_bytes for event in event_log.of(EpochDone)[1:]}
    assert exchanged == {8 * len(x)}


def test_a_killed_worker_does_not_change_the_map(x, on_two_workers):
    event_log, killed = EventLog(), []
    with device_workers(2) as client:

        def emit(event: Event) -> None:
            event_log(event)
            if isinstance(event, EpochDone) and event.epoch == 5 and not killed:
                killed.append(min(client.run(os.getpid).values()))
                os.kill(killed[0], signal.SIGKILL)

        positions = make_map(x, client=client, emit=emit, **SETTINGS).positions
    assert event_log.of(WorkerLost)
    np.testing.assert_array_equal(positions, on_two_workers)


@contextmanager
def failing(client: Any, operation: str) -> Iterator[None]:
    """Let an operation fail on one of the workers."""
    client.run(let_fail, operation, workers=[min(client.run(os.getpid))])
    with dask.config.set({"nomad-dask.nccl-within": "2 s"}):
        yield
    client.run(let_fail)


@pytest.fixture(scope="module")
def of_summaries(x: np.ndarray, workers: Any) -> np.ndarray:
    """The map of shards that exchange summaries, as their workers cannot join."""
    with failing(workers, "id"):
        return make_map(x, client=workers, **SETTINGS).positions


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("id", "there are no sockets"),
        ("join", "not done within 2 s, the setting nomad-dask.nccl-within"),
        ("share", "not done within 2 s, the setting nomad-dask.nccl-within"),
    ],
)
def test_workers_that_cannot_communicate_exchange_summaries(
    operation, reason, x, workers, on_two_workers, of_summaries, caplog
):
    """No operation is waited for without end: neither to join, nor in an epoch."""
    with failing(workers, operation), caplog.at_level(logging.WARNING, "nomad_dask"):
        positions = make_map(x, client=workers, **SETTINGS).positions
    assert f"not laid out jointly ({reason})" in caplog.text
    np.testing.assert_array_equal(positions, of_summaries)
    assert not np.array_equal(positions, on_two_workers)


class Stop(Exception):  # noqa: N818
    pass


def stop_in_the_middle(event: Event) -> None:
    if isinstance(event, EpochDone) and event.epoch == N_EPOCHS // 2:
        raise Stop


@pytest.mark.parametrize("operation", ["", "id"])
def test_a_resumed_layout_stays_as_it_was(
    operation, x, workers, on_two_workers, of_summaries, tmp_path, checkpoints_at_once
):
    """Also where it could be another: one that began with summaries goes on with them."""
    settings = SETTINGS | {"client": workers, "workspace": tmp_path / "w"}
    with failing(workers, operation), pytest.raises(Stop):
        make_map(x, emit=stop_in_the_middle, **settings)
    facts = Workspace(tmp_path / "w").recorded_facts(CHECKPOINT)
    assert facts is not None
    assert facts["joint"] == (not operation)
    resumed = make_map(x, resume=True, **settings).positions
    np.testing.assert_array_equal(resumed, of_summaries if operation else on_two_workers)


def test_a_graph_of_a_run_on_cpus_has_no_rows_of_other_shards(x, workers, tmp_path, caplog, checkpoints_at_once):
    with pytest.raises(Stop):
        make_map(x, emit=stop_in_the_middle, client=workers, workspace=tmp_path / "w", **(SETTINGS | {"device": "cpu"}))
    with caplog.at_level(logging.WARNING, "nomad_dask"):
        make_map(x, client=workers, workspace=tmp_path / "w", resume=True, **SETTINGS)
    assert "not laid out jointly (the graph was built by a run on CPUs" in caplog.text
