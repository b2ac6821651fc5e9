"""Snapshots during the layout: emitted on request only, with the true positions, and without effect on the map."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import LayoutSnapshot, ShardPlaced, SnapshotRequest
from nomad_dask.callbacks.events import combined_snapshot_request
from nomad_dask.cluster import Cluster, connect
from nomad_dask.layout.worker import StaleShard, sample_positions
from nomad_dask.pipeline.collect import Layout
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes

N = 800
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_size": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(N)


@pytest.fixture(scope="module")
def plain_map(x: np.ndarray) -> Layout:
    return make_map(x, **SETTINGS)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch, epoch_by_epoch: None) -> None:
    """Make a snapshot due after every epoch, regardless of its cost."""
    monkeypatch.setattr("nomad_dask.layout.snapshots._COST", 0)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """The tasks sent to workers."""
    tasks: list[Callable[..., Any]] = []
    run = Cluster.run

    def record_and_run(self: Cluster, task: Callable[..., Any], *args: Any, **more: Any) -> list[Any]:
        tasks.append(task)
        return run(self, task, *args, **more)

    monkeypatch.setattr(Cluster, "run", record_and_run)
    return tasks


def check_snapshots(event_log: EventLog, layout: Layout, max_points: int) -> None:
    snapshots = event_log.of(LayoutSnapshot)
    epochs = [snapshot.epoch for snapshot in snapshots]
    assert (epochs[0], epochs[-1]) == (0, 30)
    assert epochs == sorted(set(epochs))
    for snapshot in snapshots:
        assert (snapshot.n_rows, snapshot.n_epochs) == (N, 30)
        assert snapshot.rows.dtype == np.int64
        assert snapshot.positions.dtype == np.float32
        np.testing.assert_array_equal(snapshot.rows, snapshots[0].rows)
        assert snapshot.positions.shape == (len(snapshot.rows), 2)
    assert len(set(snapshots[0].rows)) == len(snapshots[0].rows) <= max_points
    # Each cell is represented in proportion to its rows.
    counts = np.bincount(layout.cell_labels[snapshots[0].rows], minlength=layout.cell_labels.max() + 1)
    step = -(-N // max_points)
    assert np.abs(counts - np.bincount(layout.cell_labels) / step).max() < 1
    np.testing.assert_array_equal(snapshots[-1].positions, layout.positions[snapshots[-1].rows])
    assert sum(placed.rows for placed in event_log.of(ShardPlaced)) == N


@pytest.mark.parametrize("max_points", [100, N])
def test_snapshots_do_not_change_the_map(x, plain_map, every_epoch, tasks, max_points):
    event_log = EventLog()
    layout = make_map(x, emit=event_log, snapshot_request=SnapshotRequest(0.0, max_points), **SETTINGS)
    np.testing.assert_array_equal(layout.positions, plain_map.positions)
    assert sample_positions in tasks
    assert len(event_log.of(LayoutSnapshot)) == 31
    check_snapshots(event_log, layout, max_points)


def test_snapshots_from_worker_processes(x, plain_map):
    event_log = EventLog()
    with worker_processes(2) as client:
        layout = make_map(x, client=client, emit=event_log, snapshot_request=SnapshotRequest(0.0, 100), **SETTINGS)
    np.testing.assert_array_equal(layout.positions, plain_map.positions)
    assert len({placed.worker for placed in event_log.of(ShardPlaced)}) == 2
    check_snapshots(event_log, layout, 100)


def test_no_positions_are_sent_without_a_request(x, every_epoch, tasks):
    event_log = EventLog()
    make_map(x, emit=event_log, **SETTINGS)
    assert event_log.of(LayoutSnapshot) == []
    assert sample_positions not in tasks


def test_snapshots_respect_the_interval(x, every_epoch):
    event_log = EventLog()
    make_map(x, emit=event_log, snapshot_request=SnapshotRequest(1000.0, 10), **SETTINGS)
    assert [snapshot.epoch for snapshot in event_log.of(LayoutSnapshot)] == [0, 30]


def test_a_worker_without_the_shard_returns_no_positions(tmp_path):
    other_run = SimpleNamespace(workspace=tmp_path)
    with connect() as cluster:
        results = cluster.run(sample_positions, [(other_run, "", (0, 1), 3, (slice(None), slice(None)))])
    assert results == [[StaleShard(), StaleShard()]]


def test_snapshot_requests_of_callbacks_are_combined():
    def one(event: object) -> None: ...
    def two(event: object) -> None: ...

    assert combined_snapshot_request([one, two]) is None
    one.snapshot_request, two.snapshot_request = SnapshotRequest(2.0, 10), None
    assert combined_snapshot_request([one, two]) == SnapshotRequest(2.0, 10)
    two.snapshot_request = SnapshotRequest(0.5, 5)
    assert combined_snapshot_request([one, two]) == SnapshotRequest(0.5, 10)
