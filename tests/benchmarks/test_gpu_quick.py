"""The script for a short time on a GPU, rehearsed with emulated kernels: all steps, and what it does about failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_checks, gpu_quick, result_lines
from benchmarks.gpu_checks import NotAvailableError
from benchmarks.gpu_quick import do_apart, do_one, last_records
from benchmarks.gpu_report import markdown
from benchmarks.gpu_steps import LONG, QUICK, Step
from nomad_dask.backends.devices import Gpu, detect_gpu
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.sanitizer import find_sanitizer

SANITIZERS = {"memcheck", "racecheck", "synccheck"}
ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def statuses(lines: Path) -> dict[str, str]:
    return {name: record["status"] for name, record in last_records([lines]).items()}


def n_done(lines: Path) -> Counter[str]:
    return Counter(record["step"] for record in result_lines.read([lines]) if record["status"] == "done")


def is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rehearsal_does_every_step_and_goes_on_after_a_kill(tmp_path):
    lines = tmp_path / "gpu-quick.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu_quick", "--rehearse", "--out", str(tmp_path), "--seconds", "1700"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    while statuses(lines).get("ceilings") != "done":
        assert killed.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while any(is_running(int(child)) for child in children):  # ends itself once its parent is gone
        time.sleep(0.1)
    before = n_done(lines)
    assert {"environment", "launches", "agreement", "ceilings"} <= before.keys()

    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    records = last_records([lines])
    for step in QUICK:
        expected = "skipped" if step.part in SANITIZERS and not find_sanitizer() else "done"
        assert records[step.name]["status"] == expected, records[step.name]
        assert records[step.name]["result"].get("passed", True), records[step.name]
    assert not any(count > 1 for count in n_done(lines).values()), "a finished step was repeated"
    assert printed == (tmp_path / "gpu-quick.md").read_text() + "\n"
    assert "A rehearsal with emulated kernels" in printed
    assert len(printed) < 12_000
    # Results are few files, as many as a machine with a GPU copies back.
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"gpu-quick.{end}" for end in ("jsonl", "log", "md")]


# --- one step


class NoWatch:
    def limit(self, seconds: float, report: Any) -> None:
        assert seconds > 0


def done_as(work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the last record of a step that does this work."""
    monkeypatch.setattr(gpu_quick, "do", lambda step, place, tell: work(tell))
    lines = tmp_path / "lines.jsonl"
    with suppress(SystemExit):
        do_one(Step("ceilings", 5), tmp_path, True, lines, NoWatch())  # type: ignore[arg-type]
    return last_records([lines])["ceilings"]


@pytest.fixture(autouse=True)
def _restored_runtime():
    """Restore what a rehearsal in this process replaces."""
    yield
    PROCESS_RUNTIME.set(None)


def test_a_step_that_fails_is_recorded_with_its_partial_result_and_traceback(tmp_path, monkeypatch):
    def work(tell: Any) -> None:
        tell({"so far": 3})
        raise MemoryError("no room for it")

    record = done_as(work, tmp_path, monkeypatch)
    assert (record["status"], record["reason"], record["result"]) == (
        "failed", "MemoryError: no room for it", {"so far": 3}
    )  # fmt: skip
    assert "in work" in record["traceback"]


def test_a_step_that_lacks_a_tool_is_skipped(tmp_path, monkeypatch):
    def work(tell: Any) -> None:
        raise NotAvailableError("no such tool")

    record = done_as(work, tmp_path, monkeypatch)
    assert (record["status"], record["reason"]) == ("skipped", "no such tool")


def test_a_step_that_takes_too_long_is_stopped_and_says_where_it_was(tmp_path):
    code = (
        "import time\n"
        "from pathlib import Path\n"
        "from benchmarks import gpu_quick\n"
        "def sleep_long(step, place, tell):\n"
        "    tell({'a': 1})\n"
        "    time.sleep(600)\n"
        "gpu_quick.do, gpu_quick.place_of, gpu_quick._REHEARSAL_FACTOR = sleep_long, lambda *_: None, 1\n"
        f"out = Path({str(tmp_path)!r})\n"
        "gpu_quick.do_steps([gpu_quick.Step('ceilings', 5), gpu_quick.Step('memory', 5)], out, True, out / 'a.jsonl')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, process_group=0, check=False)
    assert ended.returncode == -signal.SIGKILL
    record = last_records([tmp_path / "a.jsonl"])
    assert record.keys() == {"ceilings"}
    assert (record["ceilings"]["status"], record["ceilings"]["result"]) == ("stopped", {"a": 1})
    assert "in sleep_long" in record["ceilings"]["traceback"]


# --- checks


class CardOf:
    """A card with so much free memory, as it says."""

    def __init__(self, free: int) -> None:
        self.runtime = HostRuntime(free=free)


@pytest.mark.parametrize("free", [1 << 20, 1 << 60])
def test_memory_that_is_counted_but_cannot_be_allocated_does_not_pass(free):
    records: list[dict[str, Any]] = []
    gpu_checks.memory(CardOf(free), records.append, copied_bytes=1 << 16)  # type: ignore[arg-type]
    assert records[-1]["passed"] == ("allocated_bytes" in records[-1]) == (free == 1 << 20)
    assert "does not have enough memory" in records[-1]["error"]
    assert records[-1]["equal"]


@pytest.mark.parametrize("equal", [True, False])
def test_other_bits_do_not_pass(tmp_path, monkeypatch, equal):
    arrays = [(np.arange(4), np.array(np.nan)) for _ in range(3)]
    changed = [*arrays[:2], (np.array([0, 1, 2, 3 if equal else 4]), np.array(np.nan))]
    for name in ("axes", "cells", "neighbors", "epochs"):
        found = changed if name == "cells" else arrays
        monkeypatch.setattr(gpu_checks, f"repeated_{name}", lambda *_, found=found: found)
    PROCESS_RUNTIME.set(HostRuntime())
    records: list[dict[str, Any]] = []
    gpu_checks.same_bits(CardOf(1 << 30), tmp_path, records.append, max_rows=50)  # type: ignore[arg-type]
    assert (records[-1]["passed"], records[-1]["equal"]["cells"], records[-1]["equal"]["axes"]) == (equal, equal, True)


# --- all steps


STEPS = [Step("ceilings", 5), Step("memory", 5)]


def append(record: dict[str, Any], lines: Path) -> str:
    return f"open({str(lines)!r}, 'a').write({result_line(record)!r}); "


def result_line(record: dict[str, Any]) -> str:
    return json.dumps({"part": record["step"], "rows": 0, "seconds": 1.0, "result": {}} | record) + "\n"


def test_the_step_in_which_a_process_dies_has_failed(tmp_path):
    lines = tmp_path / "a.jsonl"
    code = append({"step": "ceilings", "status": "done"}, lines)
    code += append({"step": "memory", "status": "partial", "result": {"a": 1}}, lines)
    code += "import os, sys; print('last words', flush=True); os.abort()"
    do_apart(STEPS, 60, python(code), lines, tmp_path / "log")
    record = last_records([lines])["memory"]
    assert statuses(lines) == {"ceilings": "done", "memory": "failed"}
    assert (record["reason"], record["result"]) == (f"the process ended with exit code -{signal.SIGABRT}", {"a": 1})
    assert "last words" in record["log"]


def test_a_process_that_does_not_begin_fails_the_first_step(tmp_path):
    """Or it would be started again and again."""
    lines = tmp_path / "a.jsonl"
    do_apart(STEPS, 60, python("raise ImportError('no such module')"), lines, tmp_path / "log")
    assert statuses(lines) == {"ceilings": "failed"}
    assert "no such module" in last_records([lines])["ceilings"]["log"]


def test_a_step_without_time_left_is_interrupted_and_done_by_the_next_command(tmp_path):
    lines = tmp_path / "a.jsonl"
    code = append({"step": "ceilings", "status": "partial"}, lines) + "import time; time.sleep(600)"
    do_apart(STEPS, 2, python(code), lines, tmp_path / "log")
    assert statuses(lines) == {"ceilings": "interrupted"}
    do_apart(STEPS, 60, python(append({"step": "ceilings", "status": "done"}, lines)), lines, tmp_path / "log")
    assert statuses(lines) == {"ceilings": "done"}


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[list[str]]:
    """Return the names of the steps that each process of a command gets, of which the first of each fails."""
    given: list[list[str]] = []

    def fail(steps: list[Step], seconds: float, command: list[str], lines: Path, log: Path) -> None:
        given.append([step.name for step in steps])
        assert command[-len(steps) :] == given[-1]
        result_lines.append(lines, gpu_quick.line_of(steps[0], "failed", {}, 1.0, reason="of the test"))

    monkeypatch.setattr(gpu_quick, "do_apart", fail)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        gpu_quick.main([*arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return given


def test_steps_that_failed_are_repeated_only_on_request(tmp_path, monkeypatch, capsys):
    arguments = ("--out", str(tmp_path), "--parts", "memory", "reading", "memcheck")
    reading = "reading at 1,000,000 rows"
    expected = [["memory", reading, "memcheck"], [reading, "memcheck"], ["memcheck"]]
    assert started(monkeypatch, *arguments) == expected
    assert "| memory | failed |" in capsys.readouterr().out
    assert started(monkeypatch, *arguments) == []
    assert started(monkeypatch, *arguments, "--again") == expected
    elsewhere = tmp_path / "other"
    earlier = str((tmp_path / "gpu-quick.jsonl").rename(tmp_path / "earlier.jsonl"))
    assert started(monkeypatch, "--out", str(elsewhere), *arguments[2:], "--earlier", earlier) == []


def test_names_of_steps_differ_and_each_has_time():
    names = [step.name for step in (*QUICK, *LONG)]
    assert len(set(names)) == len(names)
    assert all(step.seconds <= 200 for step in QUICK), "one step would take a third of the time"


@pytest.mark.skipif(isinstance(detect_gpu(), Gpu), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert "There is no GPU to measure" in ended.stderr
    assert statuses(tmp_path / "gpu-quick.jsonl") == {"environment": "failed"}


def test_it_runs_where_only_the_dependencies_of_the_package_are_installed(tmp_path):
    """Images with CuPy have neither what our tests need nor the optional packages."""
    missing = ["pytest", "hypothesis", "datashader", "PIL", "matplotlib", "zarr", "s3fs", "moto"]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from pathlib import Path\n"
        "from benchmarks.gpu_quick import QUICK, do_steps\n"
        "wanted = [step for step in QUICK if step.part in ('environment', 'ceilings', 'reading')]\n"
        f"out = Path({str(tmp_path)!r})\n"
        "do_steps(wanted, out, True, out / 'a.jsonl')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, process_group=0, check=True)
    assert set(statuses(tmp_path / "a.jsonl").values()) == {"done"}


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--parts", "nothing"]])
def test_invalid_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        gpu_quick.main(arguments)


def test_the_page_has_every_result_and_the_reasons_for_those_it_lacks():
    machine = {
        "card": "the card", "memory_gb": 1.0, "cuda": {"driver": 13000, "runtime": 13000}, "nvidia_smi": None,
        "cores": 2, "host_memory_gb": 3, "system": "Linux", "versions": {"python": "3"},
    }  # fmt: skip
    scores = {"NP@10": {"value": 0.3, "low": 0.2, "high": 0.4}, "RTA": {"value": 0.7, "low": 0.6, "high": 0.8}}
    a_map = {"seconds": 9.0, "stages": {"layout": 3.0}, "epoch_s": 0.01, "diagnostics": {"recall": 0.96}}
    method = {"seconds": 2.0, "rows_s": 350.0, "recall": 0.99, "distances_s": 1e9, "share_of_float16": 0.1}
    near = {"methods": {"a": method, "b": {"failed": "out of memory"}}, "cuvs": "cuVS is not installed"}
    check = {"tool": "memcheck", "all_launched": True, "summary": ["ERROR SUMMARY: 2 errors"], "passed": False}
    results = {
        Step("environment", 1): {"result": machine},
        Step("maps", 1, 700): {"result": a_map | {"scores": scores}},
        Step("umap", 1, 700): {"status": "stopped", "reason": "stopped after 5 s"},
        Step("neighbors", 1, 700): {"result": near},
        Step("memcheck", 1): {"result": check | {"output": "Invalid __global__ write"}},
        Step("reading", 1, 700): {"status": "failed", "reason": "OSError: a | b", "traceback": "Traceback: OSError"},
    }
    page = markdown({step.name: gpu_quick.line_of(step, "done", {}, 1.0) | more for step, more in results.items()})
    for message in (
        "# the card", "0.300 (0.200–0.400)", "| umap at 700 rows | stopped |  | 1 | stopped after 5 s |",
        "out of memory", "cuVS is not installed", "| memcheck | done | **not passed** |", "ERROR SUMMARY: 2 errors",
        "Invalid __global__ write", "Traceback: OSError", r"OSError: a \| b", "for CUDA 13.0",
    ):  # fmt: skip
        assert message in page
