"""Whatever a command is given, it ends with 0, 2, 3 or 4 and one clear line, and its inputs are as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers.commands import run_command
from tests.helpers.hostile import Node, command_lines, make_files

# More are run before a release, as NOMAD_HOSTILE_EXAMPLES=50000.
N_EXAMPLES = int(os.environ.get("NOMAD_HOSTILE_EXAMPLES", "2000"))
FILES = make_files(Path(tempfile.mkdtemp(prefix="nomad-hostile-")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@settings(
    max_examples=N_EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
@given(line=command_lines(FILES))
def test_no_command_line_ends_with_a_bug(folder: Path, line: tuple[list[Node], list[str]]) -> None:
    nodes, arguments = line
    for node in nodes:
        node.create(folder)
    try:
        code, _, errors = run_command(arguments)
        assert code in (0, 2, 3, 4), (arguments, errors)
        assert "Traceback" not in errors, (arguments, errors)
        if code:
            assert any(text.startswith("Error: ") for text in errors.splitlines()), (arguments, errors)
            for node in nodes:
                if node.kind == "file":
                    assert (folder / node.name).read_bytes() == node.content, arguments
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
