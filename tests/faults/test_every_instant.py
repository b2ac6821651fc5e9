"""Killed at any instant, of the run or of its clean-up: the same command makes the same map, and leaves nothing else.

A kill leaves the files as they are between two changes. So every state is copied that a run goes through, and the same
command continues from it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.errors import InputError
from nomad_dask.maps import read_map
from nomad_dask.storage.manifest import read_manifest
from nomad_dask.storage.workspace import Workspace
from tests.helpers.forked import ForkedProcess
from tests.helpers.instants import record
from tests.helpers.runs import blobs, make_map

SETTINGS: dict[str, Any] = {"n_epochs": 3, "n_cells": 4, "n_shards": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, blobs(300, 8))
    return path


def states_of_run(data: Path, output: Path, copies: Path, *options: str) -> list[Path]:
    """Run ``fit`` to its end, and return copies of the folder of its output at every instant, in order."""
    folder = output.parent
    command = ["fit", str(data), "-o", str(output), "--quiet", *options]
    command += ["--epochs", "3", "--n-cells", "4", "--shards", "1"]
    recorder = ForkedProcess(record, folder, copies, command)
    _, errors = recorder.communicate()
    assert recorder.returncode == 0, errors
    return sorted(copies.iterdir())


def restore(state: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(state, folder, symlinks=True)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "explicit", "step"), [("map.parquet", False, 23), ("map.parquet", True, 23), ("map.csv", False, 200)]
)
def test_the_same_command_takes_up_every_state(data, tmp_path, name, explicit, step):
    folder, copies = tmp_path / "out", tmp_path / "copies"
    output = folder / name
    folder.mkdir()
    workspace = folder / "w" if explicit else None
    states = states_of_run(data, output, copies, *(["--workspace", str(workspace)] if explicit else []))
    expected = read_map(output)
    complete = names(folder)
    assert complete == ({name, "w"} if explicit else {name})
    written = [(state / name).exists() for state in states].index(True)
    assert written > 100
    assert len(states) - written > (5 if explicit else 15)
    for state in states[:written:step] + states[written - 8 :]:
        restore(state, folder)
        if is_complete(output, workspace):
            with pytest.raises(InputError, match="exists: give another name, or --overwrite it"):
                make_map(data, output=output, workspace=workspace, **SETTINGS)
        else:
            layout = make_map(data, output=output, workspace=workspace, **SETTINGS)
            np.testing.assert_array_equal(layout.positions, expected.positions, err_msg=state.name)
            np.testing.assert_array_equal(layout.cell_labels, expected.column("cell").to_numpy(), err_msg=state.name)
            assert layout.cell_labels.dtype == np.int32
            assert layout.n_epochs == 3
        found = read_map(output)
        np.testing.assert_array_equal(found.positions, expected.positions, err_msg=state.name)
        assert found.metadata == expected.metadata, state.name
        assert names(folder) == complete, state.name


def is_complete(output: Path, workspace: Path | None) -> bool:
    """Return whether the run has nothing left to do but to end."""
    if not output.exists():
        return False
    if workspace is not None:
        manifest = read_manifest(workspace)
        assert manifest is not None
        return manifest["delivering"] is None
    return names(output.parent) == {output.name}


def test_what_a_killed_clean_up_leaves_is_not_taken_for_another_run(data, tmp_path):
    """Beside a map of other parameters or of other columns, it proves nothing."""
    output = tmp_path / "map.parquet"
    make_map(data, output=output, **SETTINGS)
    before = output.read_bytes()
    (tmp_path / ".map.parquet.nomad.0123abcd.removed").mkdir()
    with pytest.raises(InputError, match="exists: give another name"):
        make_map(data, output=output, n_neighbors=7, **SETTINGS)
    assert output.read_bytes() == before
    make_map(data, output=output, n_neighbors=7, overwrite=True, **SETTINGS)
    assert names(tmp_path) == {"map.parquet"}
    assert read_map(output).metadata["params"]["n_neighbors"] == 7


def test_a_killed_picture_is_drawn_by_the_same_command(data, tmp_path):
    """The workspace stays until the picture is drawn, so that the same command may replace the map."""
    output, picture = tmp_path / "map.parquet", tmp_path / "map.png"
    make_map(data, output=output, workspace=tmp_path / "w", **SETTINGS)
    before = output.read_bytes()
    Workspace(tmp_path / "w").set_delivering(output)
    shutil.move(tmp_path / "w", tmp_path / "map.parquet.nomad")
    (tmp_path / ".map.png.0123abcd.partial").write_bytes(b"half a picture")
    make_map(data, output=output, picture=picture, **SETTINGS)
    assert names(tmp_path) == {"map.parquet", "map.png"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert output.read_bytes() == before
