"""The workspace: artifacts are whole or absent, damage is seen, and no other run is taken for this one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomad_dask.errors import InputError, NomadWarning, WorkspaceError
from nomad_dask.storage.artifact_folder import checksum
from nomad_dask.storage.atomic import atomic_write, link_over
from nomad_dask.storage.manifest import FORMAT, MANIFEST, PREVIOUS_MANIFEST
from nomad_dask.storage.workspace import Workspace

IDENTITY = {"source": "abc", "shape": [3, 2], "params": {"k": 15, "seed": 0}}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w", IDENTITY)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_file_is_there_when_all_went_well(tmp_path):
    with atomic_write(tmp_path / "a" / "b.txt") as partial:
        partial.write_text("new")
        assert names(tmp_path) == [f"a/{partial.name}"]
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert names(tmp_path) == ["a/b.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("durable", [True, False])
def test_nothing_is_left_of_a_failure(tmp_path, error, durable):
    (tmp_path / "b.txt").write_text("old")

    def fail() -> None:
        with atomic_write(tmp_path / "b.txt", durable) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["b.txt"]
    assert (tmp_path / "b.txt").read_text() == "old"


@pytest.mark.parametrize("linked", [True, False])
def test_a_second_name_replaces_the_file_that_had_it(tmp_path, monkeypatch, linked):
    """On a file system without links it is a copy."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not linked:
        monkeypatch.setattr("os.link", refuse)
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    for _ in range(2):  # the second time it has the name already
        link_over(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "new"
        assert (tmp_path / "old").samefile(tmp_path / "new") == linked
        assert names(tmp_path) == ["new", "old"]


def test_a_second_name_replaces_regular_files_only(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(InputError, match="only regular files are replaced"):
        link_over(tmp_path / "new", tmp_path / "link")
    assert names(tmp_path) == ["new"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "b.txt"):
        pass
    assert names(tmp_path) == []


def test_two_writers_do_not_meet(tmp_path):
    with atomic_write(tmp_path / "b") as first, atomic_write(tmp_path / "b") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "b").read_text() == "first"
    assert names(tmp_path) == ["b"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(content=st.binary(max_size=3000), at=st.integers(0, 2999), bit=st.integers(0, 7))
def test_a_checksum_sees_every_bit(tmp_path, content, at, bit):
    file = tmp_path / "x"
    file.write_bytes(content)
    before = checksum(file)
    if at < len(content):
        other = bytearray(content)
        other[at] ^= 1 << bit
        file.write_bytes(other)
        assert checksum(file) != before


@pytest.mark.parametrize("mmap", [True, False])
def test_arrays_come_back(workspace, mmap):
    array = np.arange(12, dtype=np.float16).reshape(4, 3)
    artifact = workspace.save("deep/down/x.npy", array)
    assert artifact.path == "deep/down/x.npy"
    assert artifact.size == (workspace.path / "deep" / "down" / "x.npy").stat().st_size
    loaded = workspace.load("deep/down/x.npy", mmap=mmap)
    assert loaded.dtype == np.float16
    np.testing.assert_array_equal(loaded, array)


def test_nothing_is_pickled(workspace):
    with pytest.raises(ValueError, match="pickle"):
        workspace.save("x.npy", np.array([{}, None], object))
    assert names(workspace.path) == [MANIFEST]
    np.save(workspace.path / "y.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        workspace.load("y.npy")


@pytest.mark.parametrize("name", ["../x.npy", "a/../../x.npy", "/etc/passwd", "link/x.npy"])
def test_names_never_lead_out(workspace, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (workspace.path / "link").symlink_to(tmp_path / "elsewhere")
    for act in (
        workspace.file,
        workspace.load,
        workspace.describe,
        workspace.remove,
        lambda n: workspace.save(n, np.zeros(1)),
    ):
        with pytest.raises(WorkspaceError, match="leads out of the workspace"):
            act(name)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_stage_is_known_by_the_next_one_who_opens(workspace):
    assert workspace.facts("sample") is None
    workspace.record("sample", [workspace.save("s.npy", np.zeros(3))], recall=0.5, n=3)
    again = Workspace(workspace.path, IDENTITY)
    assert again.facts("sample") == {"recall": 0.5, "n": 3}
    assert again.identity == IDENTITY
    assert Workspace(workspace.path).facts("sample") == {"recall": 0.5, "n": 3}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    elif how == "flipped":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])


@pytest.mark.parametrize("how", ["missing", "truncated", "longer", "flipped"])
def test_a_damaged_artifact_undoes_its_stage(workspace, how):
    artifacts = [workspace.save(f"{i}.npy", np.full(5, i)) for i in range(3)]
    workspace.record("sample", artifacts)
    workspace.record("other", artifacts[2:])
    damage(workspace.path / "1.npy", how)
    assert workspace.facts("sample") is None
    assert workspace.facts("other") == {}


def test_forget_and_remove(workspace):
    workspace.record("sample", [workspace.save("s/x.npy", np.zeros(3))])
    workspace.record("cells", [workspace.save("c/x.npy", np.zeros(3))])
    workspace.drop_stage("sample")
    workspace.drop_stage("sample")
    workspace.drop_stage("never")
    assert Workspace(workspace.path, IDENTITY).facts("sample") is None
    assert names(workspace.path) == ["c/x.npy", MANIFEST, PREVIOUS_MANIFEST]
    workspace.remove("c")
    workspace.remove("nothing")
    assert names(workspace.path) == [MANIFEST, PREVIOUS_MANIFEST]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "source": "xyz"}, "source: 'abc' in the workspace, 'xyz' requested"),
        ({**IDENTITY, "shape": [4, 2]}, "shape: [3, 2] in the workspace, [4, 2] requested"),
        ({**IDENTITY, "params": {"k": 8, "seed": 0}}, "params.k: 15 in the workspace, 8 requested"),
        ({**IDENTITY, "params": {"k": 15}}, "params.seed: 0 in the workspace, None requested"),
        ({**IDENTITY, "more": 1}, "more: None in the workspace, 1 requested"),
    ],
)
def test_another_run_is_refused_by_name(workspace, identity, message):
    with pytest.raises(WorkspaceError, match="belongs to another run") as caught:
        Workspace(workspace.path, identity)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_tuples_and_lists_are_the_same_identity(workspace):
    assert Workspace(workspace.path, {**IDENTITY, "shape": (3, 2)}).identity == IDENTITY


MANIFESTS = {
    "empty": "",
    "no JSON": "{'format': 1}",
    "cut short": json.dumps({"format": FORMAT, "identity": IDENTITY, "stages": {}})[:-5],
    "a list": "[1, 2]",
    "a number": "3",
    "nothing": "null",
    "no stages": json.dumps({"format": FORMAT, "identity": IDENTITY}),
    "no identity": json.dumps({"format": FORMAT, "stages": {}}),
    "stages of another kind": json.dumps({"format": FORMAT, "identity": IDENTITY, "stages": [1]}),
    "another version": json.dumps({"format": FORMAT + 1, "identity": IDENTITY, "stages": {}}),
    "not text": b"\xff\xfe\x00",
    "a damaged stage": json.dumps({"format": FORMAT, "identity": IDENTITY, "stages": {"sample": {"facts": {}}}}),
    "an artifact elsewhere": json.dumps(
        {
            "format": FORMAT, "identity": IDENTITY,
            "stages": {"sample": {"facts": {}, "artifacts": {"../../x": {"size": 1, "crc32": 1}}}},
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_damaged_manifest_is_an_error(tmp_path, kind):
    content = MANIFESTS[kind]
    (tmp_path / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WorkspaceError):
        Workspace(tmp_path, IDENTITY).facts("sample")


def test_no_workspace_is_made_where_something_else_is(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(WorkspaceError, match="neither empty nor a workspace"):
        Workspace(tmp_path, IDENTITY)
    assert names(tmp_path) == ["letter.txt"]


def test_nothing_is_made_without_an_identity(tmp_path):
    with pytest.raises(WorkspaceError, match=r"holds no manifest\.json"):
        Workspace(tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"format": 2}', bytes(100)])
def test_a_damaged_manifest_is_replaced_by_the_one_before(workspace, content):
    workspace.record("sample", [workspace.save("x.npy", np.zeros(3))])
    workspace.record("cells", [workspace.save("y.npy", np.zeros(3))])
    (workspace.path / MANIFEST).unlink()
    if content is not None:
        (workspace.path / MANIFEST).write_bytes(content)
    with pytest.warns(
        NomadWarning, match=r"manifest\.json is (damaged|missing).* The state before it is used instead\."
    ):
        opened = Workspace(workspace.path, IDENTITY)
    assert opened.facts("sample") == {}
    assert opened.facts("cells") is None
    opened.record("cells", [opened.save("y.npy", np.zeros(3))])
    assert Workspace(workspace.path, IDENTITY).facts("cells") == {}
    for name in (MANIFEST, PREVIOUS_MANIFEST):
        (workspace.path / name).write_bytes(content or b"")
    with pytest.raises(WorkspaceError, match=r"manifest\.json is damaged"):
        Workspace(workspace.path, IDENTITY)


def test_a_failed_record_keeps_the_manifest(workspace):
    workspace.record("sample", [])
    with pytest.raises(TypeError):
        workspace.record("cells", [], odd=object())
    assert Workspace(workspace.path, IDENTITY).facts("sample") == {}
