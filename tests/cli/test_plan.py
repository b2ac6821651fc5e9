"""``plan``: what the machine has, and whether the plan fits it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.helpers.processes import run_nomad


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "vectors.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32))
    return path


def plan(vectors: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return run_nomad("plan", vectors, "--no-time", "--device", "cpu", *options, cwd=vectors.parent)


def as_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(done.stdout))


def test_json_says_what_the_machine_has_and_that_the_plan_fits(vectors: Path) -> None:
    done = plan(vectors, "--json", "--n-workers", 3)
    assert (done.returncode, done.stderr) == (0, "")
    found = as_json(done)
    machine = found["machine"]
    assert found["fits"] is True
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert 0 < machine["memory_bytes"] <= psutil.virtual_memory().total
    assert machine["worker_bytes"] == machine["memory_bytes"] // 3
    assert machine["disk"] == str(vectors.parent)
    assert 0 < machine["disk_free_bytes"] <= shutil.disk_usage(vectors.parent).total
    assert (machine["gpu"], machine["gpu_free_bytes"]) == (None, None)
    # The keys that were there before.
    assert {"n_rows", "n_workers", "worker_bytes", "disk_bytes", "device_bytes", "stages", "seconds"} <= set(found)
    assert found["worker_bytes"] <= machine["worker_bytes"]


def test_text_says_what_the_machine_has_and_that_the_plan_fits(vectors: Path) -> None:
    done = plan(vectors, "--memory-limit", "2GiB")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n\nThe plan fits this machine.\n")
    (machine,) = re.findall(r"\n\nthis machine has\n(.*?)\n\n", done.stdout, re.DOTALL)
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in machine.splitlines())
    assert rows["cores"] == str(len(os.sched_getaffinity(0)))
    assert re.fullmatch(r"2\.0 GiB of [\d.]+ [GT]iB available", rows["memory per worker"])
    assert re.fullmatch(rf"[\d.]+ [GT]iB free in {vectors.parent}", rows["disk"])
    assert rows["GPU"] == "none"


def test_a_plan_that_does_not_fit_is_shown_with_what_is_missing(vectors: Path) -> None:
    done = plan(vectors, "--memory-limit", "1MB")
    assert done.returncode == 3
    assert done.stdout.endswith("\n\nThe plan does not fit this machine.\n")
    assert re.search(r"^Error: The plan needs .* the smallest has 976\.6 KiB: give", done.stderr)
    done = plan(vectors, "--memory-limit", "1MB", "--json")
    assert done.returncode == 3
    assert as_json(done)["fits"] is False
    assert as_json(done)["machine"]["worker_bytes"] == 10**6


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_a_plan_for_a_gpu_fits_no_machine_without_one(vectors: Path) -> None:
    done = plan(vectors, "--device", "gpu")
    assert done.returncode == 2
    assert done.stdout.endswith("\n\nThe plan does not fit this machine.\n")
    assert re.search(r"^Error: device='gpu' is not available here: .*; or use device='cpu'\.$", done.stderr)
