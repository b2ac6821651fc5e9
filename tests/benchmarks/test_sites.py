"""The benchmark of sites runs, and counts the files that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_small_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.sites", "--rows", "3000", "--dir", tmp_path, "--out", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    result = json.loads(next((tmp_path / "out").glob("sites-*.json")).read_text())
    (run,) = result["runs"]
    assert run["rows"] == 3000
    assert run["parts"]["tiles"]["files"] == run["tiles"] == 1
    assert sum(part["bytes"] for part in run["parts"].values()) < run["bytes"]
    assert max(part["largest"] for part in run["parts"].values()) == run["largest_part"]
    assert "| 3,000 |" in next((tmp_path / "out").glob("sites-*.md")).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
