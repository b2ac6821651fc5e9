"""Positions during the layout: told to who asks, as they are, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import LayoutSnapshot, ShardPlaced, SnapshotRequest
from nomad_dask.callbacks.events import combined_snapshot_request
from nomad_dask.cluster import Cluster
from nomad_dask.layout.worker import StaleShard, sample_positions
from nomad_dask.pipeline.collect import Layout
from tests.helpers.runs import Heard, blobs, make_map, worker_processes

N = 800
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_size": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(N)


@pytest.fixture(scope="module")
def unseen(x: np.ndarray) -> Layout:
    return make_map(x, **SETTINGS)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch, epoch_by_epoch: None) -> None:
    """Let a look follow every epoch, whatever it costs."""
    monkeypatch.setattr("nomad_dask.layout.snapshots._COST", 0)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """What workers were asked to do."""
    asked: list[Callable[..., Any]] = []
    run = Cluster.run

    def listening(self: Cluster, task: Callable[..., Any], *args: Any, **more: Any) -> list[Any]:
        asked.append(task)
        return run(self, task, *args, **more)

    monkeypatch.setattr(Cluster, "run", listening)
    return asked


def check(heard: Heard, seen: Layout, most: int) -> None:
    looks = heard.of(LayoutSnapshot)
    epochs = [one.epoch for one in looks]
    assert (epochs[0], epochs[-1]) == (0, 30)
    assert epochs == sorted(set(epochs))
    for one in looks:
        assert (one.n_rows, one.n_epochs) == (N, 30)
        assert one.rows.dtype == np.int64
        assert one.positions.dtype == np.float32
        np.testing.assert_array_equal(one.rows, looks[0].rows)
        assert one.positions.shape == (len(one.rows), 2)
    assert len(set(looks[0].rows)) == len(looks[0].rows) <= most
    # Of each cell its share: rows are counted through cells, across shards.
    shares = np.bincount(seen.cell_labels[looks[0].rows], minlength=seen.cell_labels.max() + 1)
    step = -(-N // most)
    assert np.abs(shares - np.bincount(seen.cell_labels) / step).max() < 1
    np.testing.assert_array_equal(looks[-1].positions, seen.positions[looks[-1].rows])
    assert sum(placed.rows for placed in heard.of(ShardPlaced)) == N


@pytest.mark.parametrize("most", [100, N])
def test_the_map_is_the_same_when_it_is_watched(x, unseen, every_epoch, tasks, most):
    heard = Heard()
    seen = make_map(x, emit=heard, snapshot_request=SnapshotRequest(0.0, most), **SETTINGS)
    np.testing.assert_array_equal(seen.positions, unseen.positions)
    assert sample_positions in tasks
    assert len(heard.of(LayoutSnapshot)) == 31
    check(heard, seen, most)


def test_on_worker_processes_too(x, unseen):
    heard = Heard()
    with worker_processes(2) as client:
        seen = make_map(x, client=client, emit=heard, snapshot_request=SnapshotRequest(0.0, 100), **SETTINGS)
    np.testing.assert_array_equal(seen.positions, unseen.positions)
    assert len({placed.worker for placed in heard.of(ShardPlaced)}) == 2
    check(heard, seen, 100)


def test_no_positions_travel_when_nobody_asks(x, every_epoch, tasks):
    heard = Heard()
    make_map(x, emit=heard, **SETTINGS)
    assert heard.of(LayoutSnapshot) == []
    assert sample_positions not in tasks


def test_looks_keep_their_distance(x, every_epoch):
    heard = Heard()
    make_map(x, emit=heard, snapshot_request=SnapshotRequest(1000.0, 10), **SETTINGS)
    assert [seen.epoch for seen in heard.of(LayoutSnapshot)] == [0, 30]


def test_a_worker_that_has_lost_its_shard_shows_nothing(tmp_path):
    class Elsewhere:
        workspace = tmp_path

    answer: Any = sample_positions(Elsewhere(), "", (0, 1), 3, (slice(None), slice(None)))  # type: ignore[arg-type]
    assert answer == [StaleShard(), StaleShard()]


def test_snapshot_requests_of_listeners_are_combined():
    def one(event: object) -> None: ...
    def two(event: object) -> None: ...

    assert combined_snapshot_request([one, two]) is None
    one.snapshot_request, two.snapshot_request = SnapshotRequest(2.0, 10), None
    assert combined_snapshot_request([one, two]) == SnapshotRequest(2.0, 10)
    two.snapshot_request = SnapshotRequest(0.5, 5)
    assert combined_snapshot_request([one, two]) == SnapshotRequest(0.5, 10)
