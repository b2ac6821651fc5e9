"""Check and measure one GPU in twelve minutes: right results first, then kernels, memory, whole maps and neighbors.

    python -m benchmarks.gpu_quick --out results
    python -m benchmarks.gpu_quick --out results --seconds 540
    python -m benchmarks.gpu_quick --out rehearsal --rehearse

Every result is written at once to `gpu-quick.jsonl`, one line each. A step is ended after its limit; one that fails is
recorded with its traceback, and the next one is done in a new process. The same command goes on where an earlier one
ended or was killed. Needs CuPy and what nomad-dask depends on; RAPIDS and compute-sanitizer are used if they are
installed. `--rehearse` does all of it without a GPU, on small sizes with emulated kernels.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import result_lines
from benchmarks.gpu_card import CudaCard
from benchmarks.gpu_checks import NotAvailableError
from benchmarks.gpu_report import markdown
from benchmarks.gpu_steps import LONG, QUICK, Place, Step, do

HERE = Path(__file__).parent
STEM = "gpu-quick"
# No process is started with less time than this.
_SHORTEST = 10.0
# Emulated kernels are slow, and a rehearsal may run beside other work.
_REHEARSAL_FACTOR = 50
_LOG_BYTES = 3000
FINISHED = {"done", "failed", "stopped", "skipped"}
"""What the last record of a step says, unless it was interrupted."""


def last_records(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the last record of each step."""
    return {record["step"]: record for record in result_lines.read(paths) if "step" in record}


def line_of(step: Step, status: str, result: dict[str, Any], seconds: float, **more: str) -> dict[str, Any]:
    """Return a record of a step."""
    line = {"step": step.name, "part": step.part, "rows": step.rows, "status": status, "seconds": round(seconds, 1)}
    return line | more | {"result": result}


# --- steps, in a process of their own


class Watch(threading.Thread):
    """Ends this process, and those it started, when a step takes too long or the process that started it is gone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._parent, self._deadline = os.getppid(), float("inf")
        self._report: Callable[[str], None] = lambda where: None

    def limit(self, seconds: float, report: Callable[[str], None]) -> None:
        """Allow so many seconds from now on; `report` receives the stack of the main thread if they are over."""
        self._report, self._deadline = report, time.monotonic() + seconds

    def run(self) -> None:
        main_thread = threading.main_thread().ident or 0
        while os.getppid() == self._parent and time.monotonic() < self._deadline:
            time.sleep(0.2)
        if os.getppid() == self._parent:
            self._report("".join(traceback.format_stack(sys._current_frames()[main_thread])))
        os.killpg(os.getpgrp(), signal.SIGKILL)


def do_steps(steps: Sequence[Step], scratch: Path, is_rehearsal: bool, lines: Path) -> None:
    """Do steps until one fails, after which the state of the device is unknown."""
    watch = Watch()
    watch.start()
    for step in steps:
        # A folder for each, so that the disk does not fill up.
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            do_one(step, Path(folder), is_rehearsal, lines, watch)


def do_one(step: Step, scratch: Path, is_rehearsal: bool, lines: Path, watch: Watch) -> None:
    """Do a step, and append its results.

    Raises
    ------
    SystemExit
        It failed.
    """
    began = time.monotonic()
    result: dict[str, Any] = {}

    def put(status: str, **more: str) -> None:
        result_lines.append(lines, line_of(step, status, result, time.monotonic() - began, **more))

    def tell(record: dict[str, Any]) -> None:
        result.update(record)
        put("partial")

    seconds = step.seconds * (_REHEARSAL_FACTOR if is_rehearsal else 1)
    watch.limit(seconds, lambda where: put("stopped", reason=f"stopped after {seconds:g} s", traceback=where))
    put("partial")
    try:
        place = place_of(scratch, is_rehearsal)
        do(step, place, tell)
        place.card.runtime.free_pools()
    except NotAvailableError as reason:
        put("skipped", reason=str(reason))
    except BaseException as error:
        put("failed", reason=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        raise SystemExit(1) from error
    else:
        put("done")


def place_of(scratch: Path, is_rehearsal: bool) -> Place:
    """Return the card of this process, or the host in its place."""
    if not is_rehearsal:
        return Place(CudaCard(), scratch)
    from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
    from tests.helpers.host_card import HostCard

    PROCESS_RUNTIME.set(HostCard.runtime)
    return Place(HostCard(), scratch, is_rehearsal=True)


# --- all steps


def do_apart(steps: Sequence[Step], seconds: float, command: list[str], lines: Path, log: Path) -> None:
    """Do steps in another process until it ends, or the time is over.

    A step that was underway then has `failed`, or was `interrupted` and is done again by the next command.
    """
    with log.open("ab") as out:
        begin = out.tell()
        # A group of its own, so that its workers are ended with it.
        process = subprocess.Popen(command, stdout=out, stderr=out, process_group=0)
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    known = last_records([lines])
    underway = [step for step in steps if known.get(step.name, {}).get("status") == "partial"]
    if not underway and (code is None or any(known.get(step.name, {}).get("status") in FINISHED for step in steps)):
        return
    step = underway[0] if underway else steps[0]
    with log.open("rb") as printed:
        printed.seek(max(begin, log.stat().st_size - _LOG_BYTES))
        tail = printed.read().decode(errors="replace")
    result, took = (known.get(step.name, {}).get(key, default) for key, default in (("result", {}), ("seconds", 0.0)))
    reason = "the time for all steps was over" if code is None else f"the process ended with exit code {code}"
    status = "interrupted" if code is None else "failed"
    result_lines.append(lines, line_of(step, status, result, took, reason=reason, log=tail))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({step.part for step in (*QUICK, *LONG)})
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    parser.add_argument("--seconds", type=float, default=720, help="time for all steps of this command")
    parser.add_argument("--parts", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}; else all")
    parser.add_argument("--long", action="store_true", help="also what takes hours")
    parser.add_argument("--again", action="store_true", help="repeat steps that failed or were stopped")
    parser.add_argument("--earlier", type=Path, nargs="+", default=[], metavar="JSONL",
                        help="results of earlier commands, if they are not in --out any more")  # fmt: skip
    parser.add_argument("--scratch", type=Path, help="directory for workspaces: 60 million rows need 50 GB")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, on small sizes")
    parser.add_argument("--do", nargs="+", metavar="STEP", help=argparse.SUPPRESS)  # in this process
    return parser


def chosen_steps(parts: Sequence[str] | None, with_long: bool) -> list[Step]:
    """Return the steps to do, in order."""
    steps = [*QUICK, *LONG] if with_long else list(QUICK)
    return [step for step in steps if parts is None or step.part in parts]


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    if args.seconds <= 0:
        raise SystemExit(f"--seconds {args.seconds:g} is not accepted: give a positive number.")
    lines, log = args.out / f"{STEM}.jsonl", args.out / f"{STEM}.log"
    steps = chosen_steps(args.parts, args.long)
    if args.do is not None:
        named = {step.name: step for step in (*QUICK, *LONG)}
        do_steps([named[name] for name in args.do], args.scratch, args.rehearse, lines)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + args.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the other process is ended too
    known = last_records([*args.earlier, lines])
    status = {step: known.get(step.name, {}).get("status") for step in steps}
    for step in steps:
        if args.again and status[step] in ("failed", "stopped"):
            status[step] = "again"
            result_lines.append(lines, line_of(step, "again", {}, 0))
    left = [step for step in steps if status[step] not in FINISHED]
    page = args.out / f"{STEM}.md"
    while left and (seconds := deadline - time.monotonic()) >= _SHORTEST:
        with tempfile.TemporaryDirectory(prefix="nomad-gpu-", dir=args.scratch) as folder:
            command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu_quick", "--out", str(args.out)]
            command += ["--scratch", folder, *(["--rehearse"] if args.rehearse else [])]
            do_apart(left, seconds, [*command, "--do", *(step.name for step in left)], lines, log)
        known = last_records([*args.earlier, lines])
        page.write_text(markdown(known))
        left = [step for step in left if known.get(step.name, {}).get("status") not in FINISHED]
        environment = known.get("environment", {})
        if environment.get("status") == "failed":
            raise SystemExit(f"There is no GPU to measure: {environment.get('reason')}")
    print(page.read_text() if page.exists() else "There is nothing to do.")
    if left:
        print(f"Not done: {', '.join(step.name for step in left)}. The same command goes on.")


if __name__ == "__main__":
    main()
