"""A manifest that is not what was written is refused by name; it never leads to another map."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomad_dask.errors import WorkspaceError
from nomad_dask.pipeline.status import read_status
from nomad_dask.storage.manifest import FORMAT, MANIFEST, read_manifest, write_manifest
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import blobs, make_map

SETTINGS: dict[str, Any] = {"n_epochs": 4, "n_cells": 4, "n_shards": 2}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "w"
    make_map(blobs(300, 8), workspace=path, **SETTINGS)
    return path


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value that holds no others."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from leaves(part, (*path, key))
    if not isinstance(value, dict | list) or not value:
        yield path


def replaced(content: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of nested mappings and lists with another value at a path."""
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return "something"


def test_every_changed_value_is_noticed(workspace, tmp_path):
    content = json.loads((workspace / MANIFEST).read_text())
    assert content["format"] == FORMAT
    found = list(leaves(content))
    assert len(found) > 100
    assert ("stages", "checkpoint", "facts", "z", 1) in found
    for path in found:
        value = content
        for key in path:
            value = value[key]
        (tmp_path / MANIFEST).write_text(json.dumps(replaced(content, path, other(value))))
        with pytest.raises(WorkspaceError) as caught:
            Workspace(tmp_path)
        assert str(tmp_path / MANIFEST) in str(caught.value)
        assert "--overwrite" in str(caught.value)


@settings(max_examples=150)
@given(data=st.data())
def test_every_changed_byte_is_noticed(workspace, tmp_path_factory, data):
    content = (workspace / MANIFEST).read_bytes()
    before = read_manifest(workspace)
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + data.draw(st.binary(max_size=3)) + content[at + data.draw(st.integers(0, 40)) :]
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(changed)
    try:
        assert read_manifest(folder) == before, "white space alone may change"
    except WorkspaceError as error:
        assert str(folder / MANIFEST) in str(error)  # noqa: PT017 - either of the two may be


WRONG = [
    (("identity",), [1]),
    (("about",), "x"),
    (("stages",), []),
    (("delivering",), 3),
    (("stages", "layout"), 3),
    (("stages", "layout", "facts"), None),
    (("stages", "layout", "seconds"), "1"),
    (("stages", "layout", "at"), float("nan")),
    (("stages", "layout", "at"), float("inf")),
    (("stages", "checkpoint", "facts", "epoch"), "4"),
    (("stages", "checkpoint", "facts", "epoch"), 4.0),
    (("stages", "checkpoint", "facts", "epoch"), True),
    (("stages", "checkpoint", "facts", "epoch"), -1),
    (("stages", "checkpoint", "facts", "epoch"), 10**30),
    (("stages", "checkpoint", "facts", "z"), 1.0),
    (("stages", "checkpoint", "facts", "z"), [1.0]),
    (("stages", "checkpoint", "facts", "z"), [1.0, "2"]),
    (("stages", "checkpoint", "facts", "z"), [1.0, float("nan")]),
    (("stages", "checkpoint", "facts", "loss"), [1]),
    (("stages", "checkpoint", "facts"), {}),
    (("stages", "shards", "artifacts"), {"../x.npy": {"size": 1, "crc32": 1}}),
    (("stages", "shards", "artifacts"), {"/etc/passwd": {"size": 1, "crc32": 1}}),
    (("stages", "shards", "artifacts"), {"": {"size": 1, "crc32": 1}}),
    (("stages", "shards", "artifacts"), {"x.npy": {"size": -1, "crc32": 1}}),
    (("stages", "shards", "artifacts"), {"x.npy": {"size": 1.5, "crc32": 1}}),
    (("stages", "shards", "artifacts"), {"x.npy": {"size": 1, "crc32": 1 << 32}}),
    (("stages", "shards", "artifacts"), {"x.npy": 3}),
    (("stages", "shards", "released"), {"x\0.npy": {"size": 1, "crc32": 1}}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_types_and_ranges_are_refused_also_with_a_right_checksum(workspace, tmp_path, path, value):
    content = read_manifest(workspace)
    assert content is not None
    write_manifest(tmp_path, replaced(content, path, value))
    with pytest.raises(WorkspaceError, match=r"manifest\.json is damaged"):
        Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match=r"manifest\.json is damaged"):
        read_status(tmp_path)


def test_an_unknown_stage_is_no_obstacle(tmp_path):
    """A later version may have more stages: their damage ends in no error of Python."""
    x = blobs(300, 8)
    plain = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    Workspace(tmp_path / "w").record("future", [])
    home = Workspace(tmp_path / "w")
    home.record("further", [home.save("further.npy", np.zeros(3))])
    (tmp_path / "w" / "further.npy").unlink()
    with pytest.warns(match="further"):
        again = make_map(x, workspace=tmp_path / "w", **SETTINGS)
    np.testing.assert_array_equal(again.positions, plain.positions)


def make_special(kind: str, path: Path) -> None:
    """Put something at a path that is not a regular file, or one that is too long."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "link":
        (path.parent / "elsewhere").write_text("{}")
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "long":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "deep":
        path.write_text("[" * 200_000 + "]" * 200_000)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["FIFO", "directory", "endless", "link", "long", "deep"])
def test_only_a_regular_file_is_read(tmp_path, kind):
    make_special(kind, tmp_path / MANIFEST)
    for read in (read_manifest, Workspace, read_status):
        with pytest.raises(WorkspaceError, match=r"manifest\.json (cannot be read|is damaged)"):
            read(tmp_path)
    with pytest.raises(WorkspaceError, match=r"manifest\.json (cannot be read|is damaged)"):
        make_map(blobs(300, 8), workspace=tmp_path, **SETTINGS)
