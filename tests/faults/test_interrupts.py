"""Ctrl-C: tasks in worker processes stop too, other runs continue, and the same command resumes the run."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nomad_dask.cli import cli
from nomad_dask.cluster import report_progress
from nomad_dask.errors import Interrupted
from tests.helpers.processes import command_line, descendants, stages_done, wait_until, worker_pids
from tests.helpers.runs import cluster_of, make_map, worker_processes

# A test that takes longer is called a hang.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> np.ndarray:
    return make_map(data, n_shards=2, n_epochs=60).positions


@pytest.mark.parametrize(("whom", "workers_again"), [("driver", "2"), ("group", "1")])
def test_ctrl_c_ends_the_command_and_the_run_resumes(data, undisturbed, tmp_path, whom, workers_again):
    """From a terminal the signal reaches the workers too; from ``kill`` the driver only."""
    output, workspace = tmp_path / "map.parquet", tmp_path / "w"
    options = [str(data), "-o", str(output), "--workspace", str(workspace), "--shards", "2", "--epochs", "60"]
    with command_line("fit", *options, "--workers", "2") as driver:
        wait_until(lambda: driver.poll() is not None or "cells" in stages_done(workspace))
        family = descendants(driver.pid)
        assert len(worker_pids(driver.pid)) >= 2
        (os.kill if whom == "driver" else os.killpg)(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
    assert driver.returncode == 4, errors
    assert f"Completed work is kept in {workspace}" in errors
    assert "Traceback" not in errors
    assert not alive
    again = CliRunner().invoke(cli, ["fit", *options, "--workers", workers_again, "--resume"])
    assert again.exit_code == 0, again.stderr
    table = pq.read_table(output)
    np.testing.assert_array_equal(np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()]), undisturbed)


def handles_sigterm(pid: int) -> bool:
    """Return whether a process has a handler of its own for SIGTERM, as the command line has from its start."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5])
def test_at_any_moment_it_is_one_line_and_exit_code_4(data, tmp_path, seconds, sent):
    """In the imports, in the start of the workers, and while these import what would handle the signal."""
    options = ["--workers", "2", "--shards", "2", "--epochs", "20000", "--quiet"]
    with command_line("fit", data, "-o", tmp_path / "map.parquet", *options, from_new=True) as driver:
        wait_until(lambda: handles_sigterm(driver.pid))
        time.sleep(seconds)
        family = descendants(driver.pid)
        os.killpg(driver.pid, sent) if sent == signal.SIGINT else driver.send_signal(sent)
        _, errors = driver.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
    assert driver.returncode == 4, errors
    assert errors.startswith("Error: Stopped.")
    assert len(errors.splitlines()) == 1, errors
    assert not alive


def test_a_second_ctrl_c_ends_the_command_at_once(data, tmp_path):
    output = tmp_path / "map.parquet"
    options = ["--workers", "2", "--shards", "2", "--epochs", "20000", "--quiet"]
    with command_line("fit", data, "-o", output, *options) as driver:
        wait_until(lambda: driver.poll() is not None or "neighbors" in stages_done(tmp_path / "map.parquet.nomad"))
        family = descendants(driver.pid)
        for _ in range(3):  # the first one lets the running epochs finish
            driver.send_signal(signal.SIGINT)
            time.sleep(0.4)
        _, errors = driver.communicate(timeout=30)
        _, alive = psutil.wait_procs(family, timeout=30)
    assert driver.returncode == 4, errors
    assert len(errors.splitlines()) == 1, errors
    assert not alive


def count_into(file: str, n: int) -> int:
    """Work for a while, and leave a file for every step."""
    for done in range(1, n + 1):
        with Path(file).open("a") as f:
            f.write(".")
        time.sleep(0.05)
        report_progress(done)
    return n


def test_only_the_tasks_of_the_stopped_run_stop(tmp_path):
    with worker_processes(2) as client:
        from distributed import Client

        with Client(client.scheduler.address, set_as_default=False) as other:
            answers: list[Any] = []
            mine, others = str(tmp_path / "mine"), str(tmp_path / "others")

            def run_other() -> None:
                there = sorted(other.scheduler_info()["workers"])[1:]
                answers.extend(cluster_of(other).run(count_into, [(others, 80)], workers=there))

            thread = threading.Thread(target=run_other)
            thread.start()
            wait_until(Path(others).exists)

            def stop(job: int, done: int) -> None:
                raise KeyboardInterrupt

            here = sorted(client.scheduler_info()["workers"])[:1]
            with pytest.raises(Interrupted):
                cluster_of(client).run(count_into, [(mine, 10_000)], stop, workers=here)
            # The scheduler informs the worker, which takes a moment.
            wait_until(lambda: is_still(mine), 20, "the end of the task")
            thread.join(60)
            assert answers == [80]
            assert Path(others).read_text() == "." * 80
            assert cluster_of(client).run(count_into, [(mine, 1)], workers=here) == [1]


def is_still(file: str) -> bool:
    before = Path(file).stat().st_size
    time.sleep(0.5)
    return Path(file).stat().st_size == before


def test_tasks_stop_when_their_driver_is_gone(tmp_path):
    """Also without Ctrl-C, because no client waits for them."""
    from distributed import Client

    with worker_processes(1) as client:
        driver = Client(client.scheduler.address, set_as_default=False)
        file = str(tmp_path / "trace")
        thread = threading.Thread(target=run_and_fail, args=(driver, file))
        thread.start()
        wait_until(Path(file).exists)
        driver.close()
        thread.join(30)
        assert not thread.is_alive()
        wait_until(lambda: is_still(file), 20, "the end of the task")


def run_and_fail(client: Any, file: str) -> None:
    from nomad_dask.errors import ClusterError

    with pytest.raises(ClusterError):
        cluster_of(client).run(count_into, [(file, 10_000)])
