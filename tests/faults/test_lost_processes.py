"""The scheduler, the driver, or the last worker is killed: a clear error, and the same run makes the same map."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nomad_dask.callbacks import CheckpointWritten, EpochDone, Event, StageStarted
from nomad_dask.cli import cli
from nomad_dask.errors import ClusterError
from tests.helpers.processes import command_line, descendants, scheduler_process, stages_done, wait_until, worker_pids
from tests.helpers.runs import make_map

# A test that takes longer is called a hang.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]
EPOCHS = 24
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": EPOCHS, "cell_size": 50}


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> np.ndarray:
    return make_map(data, **SETTINGS).positions


@pytest.mark.parametrize("moment", ["sample", "shards", 12])
def test_the_scheduler_is_killed(data, undisturbed, tmp_path, moment, checkpoints_at_once):
    def at_the_moment(event: Event) -> bool:
        if isinstance(moment, str):
            return isinstance(event, StageStarted) and event.stage == moment
        return isinstance(event, EpochDone) and event.epoch == moment

    with scheduler_process(tmp_path / "cluster", n_workers=2) as started:

        def emit(event: Event) -> None:
            if at_the_moment(event):
                started.process.kill()

        with pytest.raises(ClusterError, match=r"scheduler .* is gone") as caught:
            make_map(data, scheduler=started.address, workspace=tmp_path / "w", emit=emit, **SETTINGS)
    assert f"kept in {tmp_path / 'w'}" in str(caught.value)
    again = make_map(data, workspace=tmp_path / "w", resume=True, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed)


def test_workers_without_nannies_end_one_by_one(data, undisturbed, tmp_path, checkpoints_at_once):
    """Without nannies: the shard of the first moves; without the second, the run ends with an error in time."""
    lost_after = dask.config.set({"nomad-dask.lost-after": "3 s"})
    with lost_after, scheduler_process(tmp_path / "cluster", n_workers=2) as started:

        def emit(event: Event) -> None:
            if isinstance(event, EpochDone) and event.epoch in (10, 20):
                started.workers[event.epoch // 10 - 1].kill()

        with pytest.raises(ClusterError, match=r"has had no workers for [\d.]+ s.*run the same again") as caught:
            make_map(data, scheduler=started.address, workspace=tmp_path / "w", emit=emit, **SETTINGS)
        assert f"kept in {tmp_path / 'w'}" in str(caught.value)
        started.add_worker()  # as it says
        started.wait_for_workers(1)
        again = make_map(data, scheduler=started.address, workspace=tmp_path / "w", resume=True, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed)


@pytest.mark.parametrize(("after", "workers_again"), [("", "1"), ("cells", "2")])
def test_the_driver_is_killed(data, undisturbed, tmp_path, after, workers_again):
    """With an embedded cluster: its workers notice and end, and the same command finishes the map."""
    output, workspace = tmp_path / "map.parquet", tmp_path / "w"
    options = [str(data), "-o", str(output), "--workspace", str(workspace), "--quiet"]
    options += ["--shards", "2", "--epochs", str(EPOCHS), "--set", "cell_size=50"]
    with command_line("fit", *options, "--workers", "2") as driver:
        wait_until(lambda: driver.poll() is not None or (len(worker_pids(driver.pid)) >= 2 and ready(workspace, after)))
        family = descendants(driver.pid)
        driver.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, "workers end when their driver is gone"
    again = CliRunner().invoke(cli, ["fit", *options, "--workers", workers_again, "--resume"])
    assert again.exit_code == 0, again.stderr
    table = pq.read_table(output)
    positions = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()])
    np.testing.assert_array_equal(positions, undisturbed)


def ready(workspace: Path, after: str) -> bool:
    return (workspace / "manifest.json").exists() if after == "" else after in stages_done(workspace)


def test_the_driver_of_a_running_cluster_is_killed(data, undisturbed, tmp_path):
    """The cluster stays, the tasks stop, and the next run makes the same map."""
    with scheduler_process(tmp_path / "cluster", n_workers=2) as started:
        options = [data, "-o", tmp_path / "map.parquet", "--workspace", tmp_path / "w", "--quiet"]
        options += ["--shards", "2", "--epochs", str(EPOCHS), "--set", "cell_size=50"]
        with command_line("fit", *options, "--scheduler", started.address) as driver:
            wait_until(lambda: driver.poll() is not None or "cells" in stages_done(tmp_path / "w"))
            driver.kill()
        again = make_map(data, scheduler=started.address, workspace=tmp_path / "w", resume=True, **SETTINGS)
        assert [w.poll() for w in started.workers] == [None, None]
    np.testing.assert_array_equal(again.positions, undisturbed)


def test_all_workers_are_killed_repeatedly(data, undisturbed, tmp_path, checkpoints_at_once):
    """Nannies start new ones; the run waits for them and resumes from its last checkpoint."""
    from tests.helpers.runs import worker_processes

    with worker_processes(2) as client:

        def kill_all() -> None:
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

        def emit(event: Event) -> None:
            if isinstance(event, StageStarted) and event.stage in ("sample", "shards"):
                threading.Timer(0.02, kill_all).start()
            if isinstance(event, CheckpointWritten) and event.epoch in (7, EPOCHS - 1):
                kill_all()

        result = make_map(data, client=client, workspace=tmp_path / "w", emit=emit, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed)
