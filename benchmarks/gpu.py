"""Measure one GPU, and its limits for comparison: kernels, epochs, neighbors, whole maps.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --parts kernels maps --rows 1000000 --limit 300 --out results/

Every measurement is a separate process, which is ended after `--limit` seconds, and its result is written at once, so
that a killed run keeps its completed measurements. A later run of the same day on the same GPU model adds to the file
and replaces repeated measurements. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu_card import Card, CudaCard, about, ceilings
from benchmarks.gpu_kernels import epoch, kernels
from benchmarks.gpu_report import markdown
from benchmarks.gpu_vectors import neighbors, umap, whole_map

HERE = Path(__file__).parent

MILLION = 1_000_000
PARTS: dict[str, tuple[int, ...]] = {
    "ceilings": (0,),
    "kernels": (MILLION, 10 * MILLION, 60 * MILLION),
    "epochs": (MILLION, 10 * MILLION, 60 * MILLION),
    "neighbors": (100_000, MILLION, 10 * MILLION),
    "maps": (70_000, MILLION, 10 * MILLION, 60 * MILLION),
    "umap": (70_000, MILLION, 10 * MILLION),
}
"""The parts that can be measured, with their numbers of rows."""

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """One measurement."""

    part: str
    rows: int

    @property
    def label(self) -> str:
        return self.part if not self.rows else f"{self.part} at {self.rows:,} rows"


def tasks_of(parts: list[str], rows: list[int] | None) -> list[Task]:
    """Return the requested measurements, the smaller ones of all parts first."""
    wanted = [Task(p, n) for p in parts for n in (PARTS[p] if rows is None or p == "ceilings" else rows)]
    return sorted(wanted, key=lambda t: t.rows)


def measure(card: Card, task: Task, scratch: Path, tell: Tell, client: Any = None) -> None:
    """Do one measurement in this process, and report each result as soon as it is known."""
    if task.part == "ceilings":
        tell(dict(ceilings(card)))
    elif task.part == "kernels":
        tell(kernels(card, task.rows))
    elif task.part == "epochs":
        tell(epoch(card, task.rows))
    elif task.part == "neighbors":
        neighbors(card, task.rows, scratch, tell)
    elif task.part == "maps":
        whole_map(task.rows, scratch, tell, client)
    else:
        umap(task.rows, tell)


def measured_apart(command: list[str], told: Path, limit: float) -> dict[str, Any]:
    """Run a measurement in its own process and return its results, and the reason if it failed."""
    told.unlink(missing_ok=True)
    log = told.with_suffix(".log")
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            code = process.wait(limit)
            ended = "" if code == 0 else f"failed with exit code {code}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:g} s"
        finally:
            _end(process)
    record: dict[str, Any] = json.loads(told.read_text()) if told.exists() else {}
    record["process_s"] = round(time.monotonic() - began, 1)
    return record | ({"ended": ended} if ended else {})


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and the workers that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def put(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def add(results: dict[str, Any], task: Task, record: dict[str, Any], folder: Path, stem: str) -> None:
    """Replace an earlier record of the same task, and write the results."""
    kept = [r for r in results["runs"] if (r["part"], r["rows"]) != (task.part, task.rows)]
    results["runs"] = [*kept, {"part": task.part, **record, "rows": task.rows}]
    put(folder / f"{stem}.json", json.dumps(results, indent=1) + "\n")
    put(folder / f"{stem}.md", markdown(results))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART",
                        help=f"of {' '.join(PARTS)}; all by default")  # fmt: skip
    parser.add_argument("--rows", nargs="+", type=int, help="in place of the sizes that each part has")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one measurement")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds after which none is begun")
    parser.add_argument("--scratch", type=Path, help="directory for workspaces: 60 million rows need 50 GB")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # measure in this process, and write to this file
    return parser


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    if args.rows is not None and min(args.rows) < 1:
        raise SystemExit(f"--rows {min(args.rows)} is not accepted: give whole numbers from 1.")
    machine = about()
    if args.one is not None:
        (task,) = tasks_of(args.parts, args.rows)
        measure(CudaCard(), task, args.one.parent, lambda record: put(args.one, json.dumps(record)))
        return
    today = date.today().isoformat()
    stem = f"gpu-{re.sub('[^A-Za-z0-9]+', '-', machine['card'])}-{today}"
    args.out.mkdir(parents=True, exist_ok=True)
    earlier = args.out / f"{stem}.json"
    results = json.loads(earlier.read_text()) if earlier.exists() else {"runs": []}
    results |= {"date": today, "machine": machine}
    began = time.monotonic()
    for task in tasks_of(args.parts, args.rows):
        if time.monotonic() - began > args.stop_after:
            print(f"not begun: {task.label}", file=sys.stderr)
            continue
        # A folder for each, so that the workspace of one that was stopped does not fill the disk of the next.
        with tempfile.TemporaryDirectory(prefix="nomad-gpu-", dir=args.scratch) as folder:
            told = Path(folder) / "told.json"
            command = [sys.executable, str(Path(__file__).absolute()), "--one", str(told), "--parts", task.part]
            record = measured_apart([*command, "--rows", str(max(1, task.rows))], told, args.limit)
        print(f"{task.label}: {record.get('ended') or 'done'}, {record['process_s']} s", file=sys.stderr)
        add(results, task, record, args.out, stem)


if __name__ == "__main__":
    main()
