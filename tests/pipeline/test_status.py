"""`nomad-dask status` of runs that are finished, stopped, running, moved or damaged."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from nomad_dask.callbacks import CheckpointWritten, Event, StageStarted
from nomad_dask.cli import cli
from nomad_dask.errors import Interrupted, MissingInputError, WorkspaceError
from nomad_dask.pipeline.status import read_status
from nomad_dask.pipeline.status_text import format_status
from nomad_dask.storage.manifest import FORMAT, write_manifest
from tests.helpers.processes import command_line, run_nomad
from tests.helpers.runs import blobs, make_map

SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_size": 60}
# With damage there: the vectors of the shards were given back, and the cells are kept.
BEFORE_NEIGHBORS = ["done", "done", "to rerun"]
STAGES = ["sample", "cells", "shards", "neighbors", "layout"]


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture(scope="module")
def finished(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("status") / "w"
    make_map(x, workspace=home, **SETTINGS)
    return home


def stopped(x: np.ndarray, home: Path, when: Any) -> None:
    def emit(event: Event) -> None:
        if when(event):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        make_map(x, workspace=home, emit=emit, **SETTINGS)


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["status", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def test_a_finished_run(finished):
    before = tree(finished)
    found = read_status(finished)
    assert (found.state, found.lock_owner, found.damage, found.quality_warnings) == ("finished", None, (), ())
    assert (found.n_rows, found.n_dims, found.n_shards) == (800, 20, 2)
    assert found.params == SETTINGS
    assert [stage.name for stage in found.stages] == STAGES
    assert {stage.state for stage in found.stages} == {"done"}
    assert all(stage.seconds is not None and stage.seconds > 0 for stage in found.stages)
    facts = {name: value for stage in found.stages for name, value in stage.facts.items()}
    assert {"recall", "imbalance", "loss", "components", "outside_largest", "kmeans_converged"} <= facts.keys()
    assert (found.epoch, found.n_epochs) == (30, 30)
    assert found.disk_bytes == sum(p.stat().st_size for p in finished.rglob("*") if p.is_file())
    assert tree(finished) == before, "nothing is changed"


def test_the_command_prints_text_and_json(finished):
    code, out, err = call(finished)
    assert (code, err) == (0, "")
    for message in ("800 rows × 20 dimensions", "n_epochs=30", "recall 1", "epoch 30 of 30", "finished", *STAGES):
        assert message in out
    code, out, _ = call(finished, "--json", "--quick")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(read_status(finished).as_dict())) | {
        "checkpoint_age": json.loads(out)["checkpoint_age"]
    }


def test_a_stopped_run_that_was_moved(x, tmp_path, checkpoints_at_once):
    stopped(x, tmp_path / "w", lambda e: isinstance(e, CheckpointWritten) and e.epoch == 12)
    (tmp_path / "w").rename(tmp_path / "moved")
    found = read_status(tmp_path / "moved")
    assert found.state == "stopped"
    assert [stage.state for stage in found.stages] == ["done"] * 4 + ["stopped"]
    assert (found.epoch, found.n_epochs) == (12, 30)
    assert found.checkpoint_age is not None
    assert 0 <= found.checkpoint_age < 300
    assert str(tmp_path / "moved") in found.next_step
    assert "last checkpoint: epoch 12 of 30" in format_status(found)


@pytest.mark.parametrize("stage", ["cells", "neighbors"])
def test_stages_that_have_not_started(x, tmp_path, stage):
    stopped(x, tmp_path / "w", lambda e: isinstance(e, StageStarted) and e.stage == stage)
    place = STAGES.index(stage)
    states = [s.state for s in read_status(tmp_path / "w").stages]
    assert states == ["done"] * place + ["not started"] * (5 - place)


def test_damage_is_named_with_the_stages_to_run_again(x, tmp_path):
    stopped(x, tmp_path / "w", lambda e: isinstance(e, StageStarted) and e.stage == "layout")
    file = tmp_path / "w" / "graph" / "0001.indices.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = tree(tmp_path / "w")
    found = read_status(tmp_path / "w")
    assert found.damage == ("graph/0001.indices.npy does not match its checksum",)
    assert [s.state for s in found.stages] == [*BEFORE_NEIGHBORS, "damaged", "not started"]
    assert "damaged: graph/0001.indices.npy" in call(tmp_path / "w")[1]
    assert read_status(tmp_path / "w", sizes_only=True).damage == ()
    file.unlink()
    assert read_status(tmp_path / "w", sizes_only=True).damage == ("graph/0001.indices.npy is missing",)
    assert tree(tmp_path / "w").keys() == before.keys() - {str(file)}


def test_a_running_run_is_killed_and_resumed_by_the_suggested_command(tmp_path):
    """A real process: inspected while it runs, killed, moved, and finished with the suggested command."""
    data, home = tmp_path / "x.npy", tmp_path / "w"
    np.save(data, blobs(3000))
    whole = ["fit", data, "--epochs", "400", "--seed", "3", "--quiet"]
    assert run_nomad(*whole, "-o", tmp_path / "plain.parquet").returncode == 0
    command = [*whole, "-o", tmp_path / "map.parquet", f"--workspace={home}"]
    states = set()
    with command_line(*command) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                found = read_status(home)
            except (WorkspaceError, MissingInputError):  # it has not come so far
                continue
            states.add(found.state)
            assert found.damage == ()
            if found.state == "running" and found.stages[-1].state == "running":
                assert f"process {process.pid} on" in str(found.lock_owner)
                break
            time.sleep(0.02)
        assert process.poll() is None, "it was to be killed while it lays out"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "running" in states
    home.rename(tmp_path / "moved")
    found = read_status(tmp_path / "moved")
    assert (found.state, found.lock_owner) == ("stopped", None)
    assert [s.state for s in found.stages][:4] == ["done"] * 4
    words = shlex.split(found.next_step)
    assert words[-3:] == ["--workspace", str(tmp_path / "moved"), "--resume"]
    assert run_nomad(*words[1:]).returncode == 0
    assert (tmp_path / "map.parquet").exists()
    import pyarrow.parquet as pq

    maps = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "map")]
    assert maps[0].equals(maps[1])


def test_directories_that_are_not_workspaces(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "odd").mkdir()
    write_manifest(tmp_path / "odd", {"format": FORMAT, "identity": {"a": 1}, "stages": {}})
    for path, message in (
        (tmp_path / "none", "There is no workspace"),
        (tmp_path, "holds no manifest.json"),
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "odd", "describes no run"),
    ):
        code, out, err = call(path)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
