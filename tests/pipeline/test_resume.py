"""A stopped run resumes where it was."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.callbacks import CheckpointWritten, EpochDone, Event, StageFinished, StageStarted
from nomad_dask.errors import NomadWarning
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes
from tests.helpers.stopped_runs import SETTINGS, STAGES, damaged, files, resumed_stages, stopped


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_when_a_stage_begins(x, undisturbed, copy_run, tmp_path, stage):
    copy_run(tmp_path / "w", f"begin {stage}")
    event_log = EventLog()
    result = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    np.testing.assert_array_equal(result.cell_labels, undisturbed.cell_labels)
    done = STAGES[: STAGES.index(stage)]
    assert resumed_stages(event_log) == done
    assert [event.stage for event in event_log.of(StageStarted)] == STAGES[len(done) :]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_stopped_during_the_layout(x, plain, tmp_path, checkpoints_at_once, n_shards):

    def reached(event: Event) -> bool:
        return isinstance(event, CheckpointWritten) and event.epoch >= 5

    stopped(x, tmp_path / "w", reached, n_shards=n_shards)
    event_log = EventLog()
    result = make_map(x, workspace=tmp_path / "w", emit=event_log, **(SETTINGS | {"n_shards": n_shards}))
    np.testing.assert_array_equal(result.positions, plain.positions)
    assert resumed_stages(event_log) == STAGES[:-1]
    assert 5 < event_log.of(EpochDone)[0].epoch < 16
    assert result.diagnostics["loss"] == plain.diagnostics["loss"]
    assert [folder.name for folder in (tmp_path / "w" / "layout").iterdir()] == ["epoch-000016"], "only the last"


def test_stopped_between_infrequent_exchanges(x, tmp_path, checkpoints_at_once):
    """Checkpoints are written only where the next epochs need no summary but the latest."""
    settings = SETTINGS | {"n_epochs": 30, "n_shards": 3, "sync_every": 3}
    plain = make_map(x, **settings)
    stopped(x, tmp_path / "w", lambda e: isinstance(e, EpochDone) and e.epoch == 20, **settings)
    event_log = EventLog()
    result = make_map(x, workspace=tmp_path / "w", emit=event_log, **settings)
    np.testing.assert_array_equal(result.positions, plain.positions)
    assert event_log.of(EpochDone)[0].epoch == 14
    assert [event.epoch for event in event_log.of(CheckpointWritten)] == [26, 30]


def test_stopped_repeatedly(x, undisturbed, tmp_path, checkpoints_at_once):
    for epoch in (3, 4, 11, 15):
        stopped(x, tmp_path / "w", lambda e, epoch=epoch: isinstance(e, CheckpointWritten) and e.epoch == epoch)
    result = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)


def test_stopped_between_the_last_checkpoint_and_the_end(x, undisturbed, tmp_path):
    stopped(x, tmp_path / "w", lambda event: isinstance(event, CheckpointWritten) and event.epoch == 16)
    result = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert result.diagnostics == undisturbed.diagnostics


def test_a_finished_run_runs_no_stage_again(x, undisturbed, copy_run, tmp_path):
    copy_run(tmp_path / "w", "never")
    event_log = EventLog()
    again = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert resumed_stages(event_log) == STAGES
    assert event_log.of(StageStarted) == []
    assert again.diagnostics == undisturbed.diagnostics


DAMAGED = [
    ("sample/vectors.npy", "missing", False),
    ("cells/ranks.npy", "pickled", False),
    ("shards/0001.vectors.npy", "truncated", False),
    ("shards/0000.cell_offsets.npy", "flipped", True),
    ("graph/0001.indices.npy", "flipped", False),
    ("graph/0000.cross_weights.npy", "truncated", True),
    ("layout/epoch-000011/0001.npy", "flipped", False),
    ("layout/epoch-000011/0000.npy", "pickled", True),
]
STAGE_OF = {"graph": "neighbors"}


@pytest.mark.parametrize(("name", "how", "keep_stages"), DAMAGED)
def test_a_damaged_artifact_is_detected_and_made_again(
    x, undisturbed, copy_run, tmp_path, checkpoints_at_once, name, how, keep_stages
):
    folder = name.split("/")[0]
    stage = STAGE_OF.get(folder, folder)
    stop = "checkpoint 11" if stage == "layout" else f"begin {STAGES[STAGES.index(stage) + 1]}"
    copy_run(tmp_path / "w", stop, **({"keep_stages": True} if keep_stages else {}))
    damaged(tmp_path / "w" / name, how)
    event_log = EventLog()
    with pytest.warns(NomadWarning, match=f"is damaged: {name} .*stage '({stage}|checkpoint)' is run again"):
        again = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    np.testing.assert_array_equal(again.cell_labels, undisturbed.cell_labels)
    assert again.diagnostics == undisturbed.diagnostics
    done = STAGES[: STAGES.index(stage)]
    if keep_stages:
        assert resumed_stages(event_log) == done
    else:
        assert set(resumed_stages(event_log)) <= set(done), "what it reads was given back"


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped", "pickled"])
def test_every_kind_of_damage_after_the_end(x, undisturbed, copy_run, tmp_path, how):
    copy_run(tmp_path / "w", "never")
    for name in sorted(files(tmp_path / "w") - {"manifest.json", "manifest.previous.json"})[::3]:
        damaged(tmp_path / "w" / name, how)
        with pytest.warns(NomadWarning, match="is damaged"):
            again = make_map(x, workspace=tmp_path / "w", **SETTINGS)
        np.testing.assert_array_equal(again.positions, undisturbed.positions)
        assert again.diagnostics == undisturbed.diagnostics
        assert not list(Workspace(tmp_path / "w").damage("shards"))


def test_a_stage_with_other_artifacts_makes_later_stages_run_again(x, undisturbed, copy_run, tmp_path):
    """Another machine may round differently: artifacts of both must not be mixed."""
    copy_run(tmp_path / "w", "never", keep_stages=True)
    home = Workspace(tmp_path / "w")
    start = home.load("shards/0000.start.npy")
    entry = home.stages()["shards"]
    other = home.save("shards/0000.start.npy", start + 1)
    home.record("shards", [*(a for n, a in entry.artifacts.items() if n != other.path), other], **entry.facts)
    (tmp_path / "w" / "shards" / "0001.rows.npy").unlink()
    event_log = EventLog()
    with pytest.warns(NomadWarning, match="0001.rows.npy is missing"):
        again = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    assert resumed_stages(event_log) == ["sample", "cells"]
    np.testing.assert_array_equal(again.positions, undisturbed.positions)


@pytest.mark.parametrize("stage", ["cells", "neighbors"])
def test_a_stage_with_other_artifacts_finds_what_later_stages_need_again(
    x, undisturbed, copy_run, tmp_path, checkpoints_at_once, stage
):
    """The start of the layout reads artifacts that were removed after the first checkpoint: they are made again."""
    copy_run(tmp_path / "w", "checkpoint 11")
    home = Workspace(tmp_path / "w")
    assert "shards/0000.start.npy" in home.stages()["shards"].released
    entry = home.stages()[stage]
    changed, missing = sorted(entry.artifacts)[-2:]
    other = home.save(changed, home.load(changed) + 1)
    home.record(stage, [*(a for n, a in entry.artifacts.items() if n != changed), other], **entry.facts)
    (tmp_path / "w" / missing).unlink()
    event_log = EventLog()
    with pytest.warns(NomadWarning, match=f"{missing} is missing"):
        again = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    np.testing.assert_array_equal(again.cell_labels, undisturbed.cell_labels)
    assert again.diagnostics == undisturbed.diagnostics
    assert event_log.of(EpochDone)[0].epoch == 1, "the checkpoint was made from other artifacts"


def test_a_killed_record_never_mixes_artifacts_of_two_runs(copy_run, tmp_path):
    """Recording other artifacts and dropping what was made from the old ones is one write of the manifest."""
    copy_run(tmp_path / "w", "never", keep_stages=True)
    home = Workspace(tmp_path / "w")
    other = home.save("graph/0000.weights.npy", home.load("graph/0000.weights.npy") + 1)
    artifacts = [*(a for a in home.stages()["neighbors"].artifacts.values() if a.path != other.path), other]
    assert home.record("neighbors", artifacts, later_stages=["layout", "checkpoint"])
    assert set(Workspace(tmp_path / "w").stages()) == {"sample", "cells", "shards", "neighbors"}
    assert not list((tmp_path / "w" / "layout").rglob("*.npy"))


def test_artifacts_that_no_stage_reads_are_removed(x, undisturbed, copy_run, tmp_path):
    most: dict[str, set[str]] = {}

    def listen(event: Event) -> None:
        if isinstance(event, (StageFinished, CheckpointWritten)):
            most[getattr(event, "stage", "checkpoint")] = files(tmp_path / "w")

    make_map(x, workspace=tmp_path / "w", emit=listen, **SETTINGS)
    assert {n.split("/")[0] for n in most["sample"]} == {".lock", "manifest.json", "manifest.previous.json", "sample"}
    assert {n for n in most["cells"] if n.startswith("sample/")} == {"sample/rescaling.npy"}, "read by shards"
    assert not [n for n in most["shards"] if n.startswith("runs/")]
    assert [n for n in most["shards"] if "vectors" in n]
    assert not [n for n in most["neighbors"] if "vectors" in n or ".out_" in n or "pieces" in n]
    assert not [n for n in most["checkpoint"] if "start" in n]
    left = {n for n in files(tmp_path / "w") if not n.startswith("cells/") and n != "sample/rescaling.npy"}
    assert left == {
        "manifest.json",
        "manifest.previous.json",
        *(f"shards/{s:04d}.{what}.npy" for s in range(2) for what in ("rows", "cell_offsets")),
        *(f"layout/epoch-000016/{s:04d}.npy" for s in range(2)),
    }
    kept = copy_run(tmp_path / "all", "never", keep_stages=True)
    np.testing.assert_array_equal(kept.positions, undisturbed.positions)
    assert files(tmp_path / "all") > left
    assert {"sample/vectors.npy", "shards/0000.vectors.npy", "graph/0001.out_to.npy"} <= files(tmp_path / "all")


@pytest.mark.parametrize("reached", ["sample", "cells", "shards", "neighbors", "layout"])
def test_stopped_when_a_stage_ends(x, undisturbed, tmp_path, reached):
    """Its artifacts are recorded and superfluous earlier ones removed."""
    stopped(x, tmp_path / "w", lambda event: isinstance(event, StageFinished) and event.stage == reached)
    event_log = EventLog()
    again = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert resumed_stages(event_log) == STAGES[: STAGES.index(reached) + 1]


def test_leftovers_of_a_killed_run_are_removed(x, undisturbed, copy_run, tmp_path):
    copy_run(tmp_path / "w", "begin neighbors")
    for name in ("graph/.0000.indices.npy.12345678.partial", "runs/block-000000.rows.npy", "graph/0007.x.npy"):
        (tmp_path / "w" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "w" / name).write_bytes(b"left over")
    (tmp_path / "w" / "notes.txt").write_text("mine")
    again = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    left = files(tmp_path / "w")
    assert "notes.txt" in left
    assert not [n for n in left if "partial" in n or n.startswith(("runs", "graph"))]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_a_moved_workspace_resumes(x, plain, tmp_path, checkpoints_at_once, n_shards):
    settings = SETTINGS | {"n_shards": n_shards}
    stopped(x, tmp_path / "here" / "w", lambda e: isinstance(e, CheckpointWritten) and e.epoch >= 9, n_shards=n_shards)
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "w").rename(tmp_path / "there" / "other name")
    event_log = EventLog()
    again = make_map(x, workspace=tmp_path / "there" / "other name", emit=event_log, **settings)
    np.testing.assert_array_equal(again.positions, plain.positions)
    assert event_log.of(EpochDone)[0].epoch > 9
    assert not (tmp_path / "here" / "w").exists()


def test_a_run_resumes_with_other_workers_and_the_same_shards(x, tmp_path):
    """The number of shards follows the workers when a run starts, and stays the same when it resumes."""
    big = blobs(10_200)
    settings = {"n_epochs": 4}
    with worker_processes(2) as client:
        stopped(
            big, tmp_path / "w", lambda e: isinstance(e, StageStarted) and e.stage == "layout", n_shards=None,
            client=client, cell_size=250, **settings,
        )  # fmt: skip
    event_log = EventLog()
    again = make_map(big, workspace=tmp_path / "w", emit=event_log, **settings)
    assert again.diagnostics["n_shards"] == 2
    assert resumed_stages(event_log) == STAGES[:-1]
