"""Workspaces of other runs, and damaged ones: no run uses the artifacts of another, nor removes what is not its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nomad_dask.callbacks import EpochDone, Event, StageStarted
from nomad_dask.errors import InputError, Interrupted, NomadWarning, ResourceError, WorkspaceError
from tests.helpers.runs import EventLog, make_map
from tests.helpers.stopped_runs import SETTINGS, STAGES, files, resumed_stages, stop_at, stopped


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
