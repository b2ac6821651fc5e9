"""The Makefile: what it prints while it installs."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.helpers.processes import wait_until

MAKEFILE = Path(__file__).parents[1] / "Makefile"
# Stands for the python of the new environment: pip takes its time.
SLOW_PIP = """#!/bin/sh
echo "$@" >> calls
until [ -e done ]; do sleep 0.05; done
exit $(cat done)
"""

# Says nothing of directories where the tests are themselves run by make.
MAKE = ["make", "--no-print-directory"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SLOW_PIP)
    python.chmod(0o755)
    (tmp_path / ".venv" / "python.stamp").touch()
    return tmp_path


@pytest.mark.parametrize("code", [0, 1])
def test_installing_shows_that_it_is_alive_and_ends_with_pip(folder: Path, code: int) -> None:
    process = subprocess.Popen(
        [*MAKE, "install", "EVERY=1"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0].startswith("Installing into .venv")
    assert lines[1:] == ["Installing for 1 s\n", "Installing for 2 s\n"]
    (folder / "done").write_text(f"{code}\n")
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode == 0) == (code == 0)
    assert ("Installed: .venv/bin/nomad-dask" in rest) == (code == 0)
    assert (folder / ".venv" / "plot.stamp").exists() == (code == 0)
    assert (folder / "calls").read_text() == "-m pip install --quiet --editable .[plot]\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_after_installing_was_stopped(folder: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [*MAKE, "install", "EVERY=1"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        while "for 1 s" not in process.stdout.readline():
            pass
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        process.wait(timeout=60)
        (folder / "done").write_text("1\n")
        wait_until(lambda: not any(child.is_running() for child in started), what="the end of what was started")
