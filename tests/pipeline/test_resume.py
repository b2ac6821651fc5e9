"""A stopped run resumes where it was, and no run uses the artifacts of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import CheckpointWritten, EpochDone, Event, StageFinished, StageStarted
from nomad_dask.errors import InputError, Interrupted, NomadWarning, ResourceError, WorkspaceError
from nomad_dask.pipeline.collect import Layout
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import EventLog, blobs, make_map, worker_processes

STAGES = ["sample", "cells", "shards", "neighbors", "layout"]
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 16, "cell_size": 60}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture(scope="module")
def undisturbed(x: np.ndarray) -> Layout:
    return make_map(x, **SETTINGS)


@pytest.fixture(scope="module")
def of_one_shard(x: np.ndarray) -> Layout:
    return make_map(x, **(SETTINGS | {"n_shards": 1}))


@pytest.fixture
def plain(n_shards: int, undisturbed: Layout, of_one_shard: Layout) -> Layout:
    """The undisturbed map of as many shards as the test uses."""
    return undisturbed if n_shards == 2 else of_one_shard


@pytest.fixture(scope="module")
def copy_run(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Layout | None]:
    """Return a function that makes a workspace of a run that was stopped, or not; equal runs are made only once.

    It takes the path, where to stop, such as ``begin cells`` or ``checkpoint 11``, or ``never``, and settings. It
    returns the map of a run that was not stopped.
    """
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Layout | None] = {}

    def copy(workspace: Path, stop: str, **more: Any) -> Layout | None:
        name = f"{stop} {more}"
        if name not in made:
            made[name] = None
            if stop == "never":
                made[name] = make_map(x, workspace=folder / name, **(SETTINGS | more))
            else:
                kind, where = stop.split()
                stopped(x, folder / name, lambda event: reaches(event, kind, where), **more)
        shutil.copytree(folder / name, workspace)
        return made[name]

    return copy


def reaches(event: Event, kind: str, where: str) -> bool:
    if kind == "begin":
        return isinstance(event, StageStarted) and event.stage == where
    return isinstance(event, CheckpointWritten) and event.epoch == int(where)


def stop_at(reached: Callable[[Event], bool]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if reached(event):
            raise KeyboardInterrupt

    return emit


def stopped(x: np.ndarray, workspace: Path, reached: Callable[[Event], bool], **more: Any) -> None:
    with pytest.raises(Interrupted, match="Completed work is kept in") as caught:
        make_map(x, workspace=workspace, emit=stop_at(reached), **(SETTINGS | more))
    assert str(workspace) in str(caught.value)
    assert caught.value.exit_code == 4


def resumed_stages(event_log: EventLog) -> list[str]:
    return [event.stage for event in event_log.of(StageFinished) if event.resumed]


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


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def damaged(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        np.save(file, np.array([{"code": print}], object), allow_pickle=True)


# A file of every stage that is there when the next one begins, how it is damaged, and whether stages are kept.
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


def test_a_second_run_in_the_workspace_is_refused(x, undisturbed, tmp_path):
    refused: list[str] = []

    def meanwhile(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "neighbors":
            with pytest.raises(WorkspaceError, match="in use by process") as caught:
                make_map(x, workspace=tmp_path / "w", **SETTINGS)
            refused.append(str(caught.value))

    first = make_map(x, workspace=tmp_path / "w", emit=meanwhile, **SETTINGS)
    assert f"process {os.getpid()} on" in refused[0]
    np.testing.assert_array_equal(first.positions, undisturbed.positions)
    make_map(x, workspace=tmp_path / "w", **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_neighbors": 9}, "params.n_neighbors: 15 in the workspace, 9 requested"),
        ({"random_state": 5}, "params.random_state: 0 in the workspace, 5 requested"),
    ],
)
def test_other_parameters_are_refused_by_name(x, copy_run, tmp_path, change, message):
    copy_run(tmp_path / "w", "never")
    before = sorted(p.name for p in (tmp_path / "w").rglob("*"))
    with pytest.raises(WorkspaceError, match="belongs to another run") as caught:
        make_map(x, workspace=tmp_path / "w", **(SETTINGS | change))
    assert message in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "w").rglob("*")) == before


def test_another_source_is_refused(x, copy_run, tmp_path):
    copy_run(tmp_path / "w", "never")
    with pytest.raises(WorkspaceError, match="source: "):
        make_map(x[::-1], workspace=tmp_path / "w", **SETTINGS)
    with pytest.raises(WorkspaceError, match=r"shape: \[800, 20\] in the workspace, \[700, 20\] requested"):
        make_map(x[:700], workspace=tmp_path / "w", **SETTINGS)


def test_overwrite_replaces_another_run(x, undisturbed, tmp_path):
    """And spares other files in its workspace."""
    make_map(x[::-1], workspace=tmp_path / "w", **SETTINGS)
    (tmp_path / "w" / "notes.txt").write_text("mine")
    event_log = EventLog()
    result = make_map(x, workspace=tmp_path / "w", overwrite=True, emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert resumed_stages(event_log) == []
    assert (tmp_path / "w" / "notes.txt").read_text() == "mine"


def test_a_run_with_a_damaged_manifest_continues_from_the_one_before(x, undisturbed, copy_run, tmp_path):
    copy_run(tmp_path / "w", "begin neighbors")
    content = (tmp_path / "w" / "manifest.json").read_bytes()
    (tmp_path / "w" / "manifest.json").write_bytes(content[: len(content) // 2])
    event_log = EventLog()
    with pytest.warns(NomadWarning, match="The state before it is used instead|is run again"):
        result = make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)


def test_a_run_beside_its_output_starts_again_when_its_manifests_are_damaged(x, undisturbed, tmp_path):
    output = tmp_path / "map.parquet"
    stop = stop_at(lambda event: isinstance(event, StageStarted) and event.stage == "neighbors")
    with pytest.raises(Interrupted):
        make_map(x, output=output, emit=stop, **SETTINGS)
    workspace = tmp_path / "map.parquet.nomad"
    for name in ("manifest.json", "manifest.previous.json"):
        (workspace / name).write_bytes(b"")
    with pytest.warns(NomadWarning, match=r"The manifests of .*map\.parquet\.nomad are damaged: the run starts again"):
        result = make_map(x, output=output, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert not workspace.exists()


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', "[" * 100_000])
def test_overwrite_replaces_a_workspace_whose_manifest_is_damaged(x, undisturbed, copy_run, tmp_path, damage):
    copy_run(tmp_path / "w", "begin shards")
    for name in ("manifest.json", "manifest.previous.json"):
        (tmp_path / "w" / name).write_text(damage)
    with pytest.raises(WorkspaceError, match=r"manifest\.json (is damaged|has format).*--overwrite"):
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
    result = make_map(x, workspace=tmp_path / "w", overwrite=True, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)


def test_overwrite_spares_what_is_not_of_a_workspace(x, tmp_path):
    """A browser extension has a manifest.json too."""
    extension = tmp_path / "extension"
    extension.mkdir()
    for name in ("manifest.json", "popup.js"):
        (extension / name).write_text('{"manifest_version": 3}')
    with pytest.raises(WorkspaceError, match="is damaged"):
        make_map(x, workspace=extension, overwrite=True, **SETTINGS)
    assert files(extension) == {"manifest.json", "popup.js"}
    assert (extension / "manifest.json").read_text() == '{"manifest_version": 3}'


def test_a_workspace_without_a_finished_stage_is_no_obstacle(x, undisturbed, tmp_path):
    """Its run was killed early, or its data was refused: there is nothing to lose."""
    stopped(x[::-1], tmp_path / "w", lambda event: isinstance(event, StageStarted) and event.stage == "sample")
    result = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)


def test_a_refused_run_leaves_no_workspace(x, tmp_path):
    with pytest.raises(ResourceError, match="The plan needs"):
        make_map(x, output=tmp_path / "map.parquet", memory_limit="2MB", **SETTINGS)
    with pytest.raises(ResourceError, match="The plan needs"):
        make_map(x, workspace=tmp_path / "w", memory_limit="2MB", **SETTINGS)
    bad = x.copy()
    bad[17, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    for target in ({"output": tmp_path / "map.parquet"}, {"workspace": tmp_path / "w"}):
        with pytest.raises(InputError, match="17"):
            make_map(tmp_path / "bad.npy", **target, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.npy"]


def test_overwrite_refuses_a_folder_that_is_not_a_workspace(x, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(WorkspaceError, match="neither empty nor a workspace"):
        make_map(x, workspace=tmp_path / "letters", overwrite=True, **SETTINGS)
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_resume_needs_something_to_resume(x, tmp_path):
    with pytest.raises(WorkspaceError, match="nothing to resume"):
        make_map(x, workspace=tmp_path / "w", resume=True, **SETTINGS)
    assert not (tmp_path / "w").exists()


def test_a_workspace_that_cannot_be_created(x, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, WorkspaceError)):
        make_map(x, workspace=tmp_path / "file" / "w", **SETTINGS)
    with pytest.raises((InputError, WorkspaceError)):
        make_map(x, workspace=tmp_path / "file", **SETTINGS)


def test_a_temporary_workspace_is_removed(x, tmp_path, monkeypatch):
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
    event_log = EventLog()
    result = make_map(x, output=output, resume=True, emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(result.positions, undisturbed.positions)
    assert resumed_stages(event_log) == STAGES[:-1]
    assert [p.name for p in tmp_path.iterdir()] == ["map.parquet"]


def test_nothing_in_a_workspace_is_pickled(copy_run, tmp_path):
    copy_run(tmp_path / "w", "never")
    files = [p for p in (tmp_path / "w").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".npy"}
    for file in files:
        if file.suffix == ".npy":
            np.load(file, mmap_mode="r", allow_pickle=False)


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_differ(x, undisturbed, tmp_path, hours):
    """A source whose time changes during a run is refused; otherwise its content counts, and artifacts' times never."""
    np.save(tmp_path / "x.npy", x)
    file, home = tmp_path / "x.npy", tmp_path / "w"

    def shift(path: Path) -> None:
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + hours * 3600 * 10**9))

    def emit(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "shards":
            shift(file)

    with pytest.raises(InputError, match=r"has changed .*since it was opened"):
        make_map(file, workspace=home, emit=emit, **SETTINGS)
    stopped(file, home, lambda event: isinstance(event, StageStarted) and event.stage == "neighbors")
    for path in (home, *home.rglob("*")):
        shift(path)
    event_log = EventLog()
    again = make_map(file, workspace=home, emit=event_log, **SETTINGS)
    np.testing.assert_array_equal(again.positions, undisturbed.positions)
    assert resumed_stages(event_log) == ["sample", "cells", "shards"]
