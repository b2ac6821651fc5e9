"""The directory of a model holds a whole model at every instant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nomad_dask.errors import InputError, MissingInputError, WorkspaceError
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.manifest import content_checksum
from nomad_dask.storage.model_folder import (
    FORMAT,
    MODEL_MANIFEST,
    ModelManifest,
    check_model_target,
    model_damage,
    new_generation,
)


def fail(*_: object) -> None:
    raise ZeroDivisionError


def write(model: Path, value: int) -> None:
    with hold_lock(model), new_generation(model, {"value": value}) as generation:
        generation.add("a/numbers.npy", np.full(5, value))


def value_of(model: Path) -> int:
    manifest = ModelManifest.read(model)
    (value,) = set(np.load(model / manifest.folder / "a/numbers.npy").tolist())
    assert manifest.about == {"value": value}
    assert model_damage(model, manifest) == []
    return int(value)


def test_the_last_state_is_read_and_the_others_are_removed(tmp_path):
    model = tmp_path / "m"
    for value in (1, 2, 3):
        write(model, value)
        assert value_of(model) == value
        assert sorted(p.name for p in model.iterdir()) == [f"generation-{value:06d}", MODEL_MANIFEST]


def test_files_are_linked_not_copied(tmp_path):
    folder = ArtifactFolder(tmp_path / "run")
    artifact = folder.save("shards/0.npy", np.arange(3))
    with new_generation(tmp_path / "m", {}) as generation:
        generation.link("shards/0.npy", folder.file("shards/0.npy"), artifact)
    shutil.rmtree(tmp_path / "run")
    manifest = ModelManifest.read(tmp_path / "m")
    assert model_damage(tmp_path / "m", manifest) == []
    np.testing.assert_array_equal(np.load(tmp_path / "m" / manifest.folder / "shards/0.npy"), np.arange(3))


def test_an_error_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    write(tmp_path / "m", 1)
    monkeypatch.setattr(np, "full", fail)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "m", 2)
    monkeypatch.undo()
    assert value_of(tmp_path / "m") == 1
    write(tmp_path / "m", 2)
    assert value_of(tmp_path / "m") == 2


def test_what_a_kill_leaves_is_removed_by_the_next_writer(tmp_path):
    model = tmp_path / "m"
    write(model, 1)
    left = model / "generation-000002"
    (left / "a").mkdir(parents=True)
    (left / "a" / "numbers.npy").write_bytes(b"half")
    assert value_of(model) == 1
    write(model, 2)
    assert value_of(model) == 2


def test_one_writer_at_a_time(tmp_path):
    write(tmp_path / "m", 1)
    with hold_lock(tmp_path / "m"), pytest.raises(WorkspaceError, match="in use by process"):
        write(tmp_path / "m", 2)
    assert value_of(tmp_path / "m") == 1


def test_missing_and_foreign_directories_are_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"no model '.*nothing'"):
        ModelManifest.read(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"'.*other' is not a model"):
        ModelManifest.read(tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"'.*file' is not a model"):
        ModelManifest.read(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "null", '{"format": 1}', "[" * 100_000])
def test_a_damaged_manifest_is_reported(tmp_path, text):
    write(tmp_path / "m", 1)
    (tmp_path / "m" / MODEL_MANIFEST).write_text(text)
    with pytest.raises(InputError, match=rf"{MODEL_MANIFEST} is damaged"):
        ModelManifest.read(tmp_path / "m")


def test_a_changed_manifest_does_not_match_its_checksum(tmp_path):
    write(tmp_path / "m", 1)
    file = tmp_path / "m" / MODEL_MANIFEST
    file.write_text(file.read_text().replace('"value": 1', '"value": 2'))
    with pytest.raises(InputError, match="checksum"):
        ModelManifest.read(tmp_path / "m")


def test_a_later_format_is_refused(tmp_path):
    write(tmp_path / "m", 1)
    file = tmp_path / "m" / MODEL_MANIFEST
    content = json.loads(file.read_text()) | {"format": FORMAT + 1}
    del content["checksum"]
    file.write_text(json.dumps(content | {"checksum": content_checksum(content)}))
    with pytest.raises(InputError, match=f"format {FORMAT + 1}, this version of nomad-dask reads up to {FORMAT}"):
        ModelManifest.read(tmp_path / "m")


def test_an_array_that_leads_out_of_the_model_is_refused(tmp_path):
    write(tmp_path / "m", 1)
    file = tmp_path / "m" / MODEL_MANIFEST
    content = json.loads(file.read_text().replace("a/numbers.npy", "../../outside.npy"))
    del content["checksum"]
    file.write_text(json.dumps(content | {"checksum": content_checksum(content)}))
    with pytest.raises(WorkspaceError, match="leads out"):
        model_damage(tmp_path / "m", ModelManifest.read(tmp_path / "m"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes instead of"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\xff"), "does not match its checksum"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, damage, message):
    write(tmp_path / "m", 1)
    damage(tmp_path / "m" / "generation-000001" / "a" / "numbers.npy")
    (found,) = model_damage(tmp_path / "m", ModelManifest.read(tmp_path / "m"))
    assert found.startswith("a/numbers.npy")
    assert message in found


def test_targets(tmp_path):
    check_model_target(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_model_target(tmp_path / "empty", overwrite=False)
    write(tmp_path / "m", 1)
    check_model_target(tmp_path / "m", overwrite=True)
    with pytest.raises(InputError, match="exists"):
        check_model_target(tmp_path / "m", overwrite=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not a directory"):
        check_model_target(tmp_path / "file", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="directory of other files"):
        check_model_target(tmp_path / "other", overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        check_model_target(tmp_path / "a" / "b", overwrite=True)


def test_a_manifest_that_a_killed_process_was_writing_is_no_other_file(tmp_path):
    (tmp_path / "m" / "generation-000001").mkdir(parents=True)
    left = tmp_path / "m" / f".{MODEL_MANIFEST}.0123abcd.partial"
    left.write_text("{")
    check_model_target(tmp_path / "m", overwrite=False)
    assert not left.exists()
    write(tmp_path / "m", 1)
