"""A run that was stopped goes on where it was, and no run takes what another has made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Heard, blobs, make_map

from nomad_dask.errors import InputError, Interrupted, WorkspaceError
from nomad_dask.events import CheckpointWritten, EpochDone, Event, StageFinished, StageStarted
from nomad_dask.pipeline import Result

STAGES = ["sample", "cells", "shards", "neighbors", "layout"]
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 30, "cell_rows": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> Result:
    return make_map(x, **SETTINGS)


@pytest.fixture
def checkpoints_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_dask.layout.driver._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("nomad_dask.layout.driver._CHECKPOINT_COST", 0)


def stop_at(reached: Callable[[Event], bool]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if reached(event):
            raise KeyboardInterrupt

    return emit


def stopped(x: np.ndarray, workspace: Path, reached: Callable[[Event], bool], **more: Any) -> None:
    with pytest.raises(Interrupted, match="What was done is kept in") as caught:
        make_map(x, workspace=workspace, emit=stop_at(reached), **(SETTINGS | more))
    assert str(workspace) in str(caught.value)
    assert caught.value.exit_code == 4


def resumed_stages(heard: Heard) -> list[str]:
    return [event.stage for event in heard.of(StageFinished) if event.resumed]


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_when_a_stage_begins(x, undisturbed, tmp_path, stage):
    stopped(x, tmp_path / "w", lambda event: isinstance(event, StageStarted) and event.stage == stage)
    heard = Heard()
    result = make_map(x, workspace=tmp_path / "w", emit=heard, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    np.testing.assert_array_equal(result.cells, undisturbed.cells)
    done = STAGES[: STAGES.index(stage)]
    assert resumed_stages(heard) == done
    assert [event.stage for event in heard.of(StageStarted)] == STAGES[len(done) :]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_stopped_during_the_layout(x, tmp_path, checkpoints_at_once, n_shards):
    plain = make_map(x, **(SETTINGS | {"n_shards": n_shards}))

    def reached(event: Event) -> bool:
        return isinstance(event, CheckpointWritten) and event.epoch >= 5

    stopped(x, tmp_path / "w", reached, n_shards=n_shards)
    heard = Heard()
    result = make_map(x, workspace=tmp_path / "w", emit=heard, **(SETTINGS | {"n_shards": n_shards}))
    np.testing.assert_array_equal(result.positions, plain.positions)
    assert resumed_stages(heard) == STAGES[:-1]
    assert 5 < heard.of(EpochDone)[0].epoch < 30
    assert result.diagnostics["loss"] == plain.diagnostics["loss"]


def test_stopped_again_and_again(x, undisturbed, tmp_path, checkpoints_at_once):
    for epoch in (3, 4, 11, 29):
        stopped(x, tmp_path / "w", lambda e, epoch=epoch: isinstance(e, CheckpointWritten) and e.epoch == epoch)
    result = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)


def test_stopped_between_the_last_checkpoint_and_the_end(x, undisturbed, tmp_path):
    stopped(x, tmp_path / "w", lambda event: isinstance(event, CheckpointWritten) and event.epoch == 30)
    result = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert result.diagnostics == undisturbed.diagnostics


def test_only_the_last_checkpoint_is_kept(x, tmp_path, checkpoints_at_once):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    assert [folder.name for folder in (tmp_path / "w" / "layout").iterdir()] == ["epoch-000030"]


def test_a_finished_run_does_nothing_again(x, undisturbed, tmp_path):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    heard = Heard()
    again = make_map(x, workspace=tmp_path / "w", emit=heard, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert resumed_stages(heard) == STAGES
    assert heard.of(StageStarted) == []
    assert again.diagnostics == undisturbed.diagnostics


def test_a_damaged_artifact_is_made_again(x, undisturbed, tmp_path):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    file = tmp_path / "w" / "cells" / "centroids.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    heard = Heard()
    again = make_map(x, workspace=tmp_path / "w", emit=heard, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert "cells" not in resumed_stages(heard)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"n_neighbors": 9}, "params.n_neighbors: 15 there, 9 now"), ({"seed": 5}, "params.seed: 0 there, 5 now")],
)
def test_other_parameters_are_refused_by_name(x, tmp_path, change, said):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    before = sorted(p.name for p in (tmp_path / "w").rglob("*"))
    with pytest.raises(WorkspaceError, match="belongs to another run") as caught:
        make_map(x, workspace=tmp_path / "w", **(SETTINGS | change))
    assert said in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "w").rglob("*")) == before


def test_another_source_is_refused(x, tmp_path):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    with pytest.raises(WorkspaceError, match="source: "):
        make_map(x[::-1], workspace=tmp_path / "w", **SETTINGS)
    with pytest.raises(WorkspaceError, match=r"shape: \[800, 20\] there, \[700, 20\] now"):
        make_map(x[:700], workspace=tmp_path / "w", **SETTINGS)


def test_overwrite_takes_the_place_of_another_run(x, undisturbed, tmp_path):
    make_map(x[::-1], workspace=tmp_path / "w", **SETTINGS)
    heard = Heard()
    result = make_map(x, workspace=tmp_path / "w", overwrite=True, emit=heard, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert resumed_stages(heard) == []


def test_overwrite_takes_no_folder_that_is_not_a_workspace(x, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(WorkspaceError, match="neither empty nor a workspace"):
        make_map(x, workspace=tmp_path / "letters", overwrite=True, **SETTINGS)
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_resume_needs_something_to_resume(x, tmp_path):
    with pytest.raises(WorkspaceError, match="nothing to resume"):
        make_map(x, workspace=tmp_path / "w", resume=True, **SETTINGS)
    assert not (tmp_path / "w").exists()


def test_a_workspace_that_cannot_be_made(x, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, WorkspaceError)):
        make_map(x, workspace=tmp_path / "file" / "w", **SETTINGS)
    with pytest.raises((InputError, WorkspaceError)):
        make_map(x, workspace=tmp_path / "file", **SETTINGS)


def test_nothing_is_left_without_a_workspace(x, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    make_map(x, **SETTINGS)
    with pytest.raises(Interrupted) as caught:
        make_map(x, emit=stop_at(lambda event: isinstance(event, EpochDone)), **SETTINGS)
    assert "kept" not in str(caught.value)
    assert list(tmp_path.glob("nomad-*")) == []


def test_the_workspace_of_an_output_is_kept_until_it_is_written(x, undisturbed, tmp_path):
    output = tmp_path / "map.parquet"
    with pytest.raises(Interrupted):
        make_map(x, output=output, emit=stop_at(lambda event: isinstance(event, EpochDone)), **SETTINGS)
    assert not output.exists()
    heard = Heard()
    result = make_map(x, output=output, resume=True, emit=heard, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert resumed_stages(heard) == STAGES[:-1]
    assert [p.name for p in tmp_path.iterdir()] == ["map.parquet"]


def test_nothing_in_a_workspace_is_pickled(x, tmp_path):
    make_map(x, workspace=tmp_path / "w", **SETTINGS)
    files = [p for p in (tmp_path / "w").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".npy"}
    for file in files:
        if file.suffix == ".npy":
            np.load(file, mmap_mode="r", allow_pickle=False)
