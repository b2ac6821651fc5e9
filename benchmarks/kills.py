"""Kill processes of one small fit at random moments, finish it, and compare the maps bit for bit.

    python -m benchmarks.kills --trials 200

Every trial is one fit by a separate process (the driver) on a scheduler and two workers with nannies, each a process of
its own. At a random moment of a random stage a random victim receives SIGKILL: one worker, all workers, a nanny, the
scheduler, or the driver. A driver that was killed, or has lost its scheduler, is started again and resumes its
workspace, on a new cluster if need be. A trial that exceeds the time limit counts as a hang. The result is written
after every trial.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import HERE, machine, versions
from tests.helpers.processes import Scheduler, scheduler_process

N_ROWS, N_DIMS, N_EPOCHS, N_SHARDS = 3000, 16, 60, 2
STAGES = ("sample", "cells", "shards", "neighbors", "layout")
VICTIMS = ("worker", "all workers", "nanny", "scheduler", "driver")
N_WORKERS = 2
# Seconds after which a trial is a hang: ten times what one with a lost worker takes.
BOUND = 180.0
# So that there are checkpoints to take up within a layout of a second.
CHECKPOINT_SECONDS = 0.1


def data(path: Path) -> None:
    """Write rows around a few centers."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(8, N_DIMS))
    np.save(path, (centers[rng.integers(8, size=N_ROWS)] + rng.normal(size=(N_ROWS, N_DIMS))).astype(np.float32))


def drive(x: Path, workspace: Path, scheduler: str | None, out: Path) -> None:
    """Make the map and save it; print the start and end of each stage."""
    from nomad_dask.callbacks import Event, StageFinished, StageStarted
    from nomad_dask.layout import optimize
    from nomad_dask.params import Params
    from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    optimize._CHECKPOINT_SECONDS, optimize._CHECKPOINT_COST = CHECKPOINT_SECONDS, 0

    def emit(event: Event) -> None:
        if isinstance(event, StageStarted):
            print("started", event.stage, 0.0, flush=True)
        elif isinstance(event, StageFinished):
            print("finished", event.stage, event.seconds, flush=True)

    params = Params(n_shards=N_SHARDS, n_epochs=N_EPOCHS, cell_size=50)
    made = project(
        open_source(x),
        params,
        cluster=ClusterOptions(scheduler=scheduler),
        workspace=WorkspaceOptions(workspace),
        emit=emit,
    )
    partial = out.with_suffix(".partial.npy")
    np.save(partial, made.positions)
    partial.replace(out)


class Driver:
    """A process that makes the map. A thread reads its output."""

    def __init__(self, x: Path, workspace: Path, scheduler: str, out: Path) -> None:
        command = [sys.executable, __file__, "--drive", str(x), str(workspace), scheduler, str(out)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started: dict[str, threading.Event] = {stage: threading.Event() for stage in STAGES}
        self.seconds: dict[str, float] = {}
        self.errors = ""
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, stage, seconds = line.split()
            if what == "started":
                self.started[stage].set()
            else:
                self.seconds[stage] = float(seconds)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait(self, deadline: float) -> int | None:
        """Return its exit code, or None if the deadline has passed, after which it is killed."""
        try:
            code = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = None
        for reader in self._readers:
            reader.join()
        return code


class Cluster:
    """A scheduler and workers with nannies, replaced by new ones when the scheduler or a nanny was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._n_started = folder, 0
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        """End what runs, and start a scheduler and workers."""
        self._running.close()
        self._n_started += 1
        self.scheduler: Scheduler = self._running.enter_context(
            scheduler_process(self._folder / f"cluster-{self._n_started}", environment={})
        )
        for _ in range(N_WORKERS):
            self.scheduler.add_worker("--nanny")
        self.scheduler.wait_for_workers(N_WORKERS)

    def close(self) -> None:
        """End all."""
        self._running.close()

    def workers(self) -> list[int]:
        """Return the processes of the workers, once there are as many as nannies."""
        self.scheduler.wait_for_workers(N_WORKERS)
        from distributed import Client

        with Client(self.scheduler.address, set_as_default=False) as client:
            return sorted(client.run(os.getpid).values())


def targets(victim: str, cluster: Cluster, driver: Driver, workers: list[int], draw: random.Random) -> list[int]:
    """Return the processes to kill."""
    return {
        "worker": [draw.choice(workers)],
        "all workers": workers,
        "nanny": [draw.choice(cluster.scheduler.workers).pid],
        "scheduler": [cluster.scheduler.process.pid],
        "driver": [driver.process.pid],
    }[victim]


def trial(number: int, cluster: Cluster, x: Path, expected: np.ndarray, usual: dict[str, float], folder: Path) -> Any:
    """Run one trial and return its result; None if the fit was complete before the kill."""
    draw = random.Random(number)
    stage, victim = draw.choice(STAGES), draw.choice(VICTIMS)
    delay = draw.random() * usual[stage]
    out, workspace = folder / "map.npy", folder / "work"
    workers = cluster.workers()
    began = time.monotonic()
    deadline = began + BOUND
    driver = Driver(x, workspace, cluster.scheduler.address, out)
    in_time = driver.started[stage].wait(BOUND)
    time.sleep(delay)
    if in_time and driver.process.poll() is not None:
        driver.wait(deadline)
        return None
    for pid in targets(victim, cluster, driver, workers, draw):
        os.kill(pid, signal.SIGKILL)
    code = driver.wait(deadline)
    if victim in ("nanny", "scheduler"):
        cluster.start()
    said = ""
    if victim == "driver" and out.exists():  # killed between its last line and its end
        code = 0
    elif code is not None and victim in ("driver", "scheduler") and not out.exists():
        said = driver.errors.strip()[-200:]
        driver = Driver(x, workspace, cluster.scheduler.address, out)
        code = driver.wait(deadline)
    if code is None:
        outcome = "hang"
    elif code != 0:
        outcome, said = "error", driver.errors.strip()[-1000:]
    else:
        outcome = "equal" if np.array_equal(np.load(out), expected) else "different"
    return {
        "trial": number,
        "stage": stage,
        "delay_s": round(delay, 3),
        "victim": victim,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 2),
        "said": said,
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a Markdown page."""
    trials, host = result["trials"], result["machine"]
    outcomes = Counter(one["outcome"] for one in trials)
    told = ", ".join(f"{outcomes[kind]} {kind}" for kind in ("equal", "different", "error", "hang"))
    lines = [
        f"# {len(trials)} random kills",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB. {N_ROWS:,} rows of {N_DIMS} "
        f"dimensions, {N_SHARDS} shards on {N_WORKERS} worker processes, {N_EPOCHS} epochs. A trial of more than "
        f"{BOUND:.0f} s is a hang.",
        "",
        f"Maps compared bit for bit with the undisturbed: {told}.",
        "",
        "| killed in | " + " | ".join(VICTIMS) + " |",
        "|---" * (len(VICTIMS) + 1) + "|",
    ]
    for stage in STAGES:
        cells = []
        for victim in VICTIMS:
            here = [one["outcome"] for one in trials if (one["stage"], one["victim"]) == (stage, victim)]
            cells.append(f"{here.count('equal')} of {len(here)} equal" if here else "")
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    seconds = sorted(one["seconds"] for one in trials)
    lines += [
        "",
        f"A trial took {seconds[len(seconds) // 2]:.1f} s in the median and {seconds[-1]:.1f} s at most.",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--drive"]:
        x, workspace, scheduler, out = sys.argv[2:]
        drive(Path(x), Path(workspace), scheduler, Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number, and seed, of the first trial")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the results")
    args = parser.parse_args()

    today = date.today().isoformat()
    result: dict[str, Any] = {"date": today, "machine": machine(), "versions": versions([], sys.executable)}
    result["trials"] = []
    with tempfile.TemporaryDirectory(prefix="nomad-kills-") as name, ExitStack() as stack:
        home = Path(name)
        cluster = Cluster(home)
        stack.callback(cluster.close)
        x = home / "x.npy"
        data(x)
        usual: dict[str, float] = {}
        for _ in range(2):  # compiled code is cached by the first
            plain = tempfile.mkdtemp(dir=home)
            driver = Driver(x, Path(plain) / "work", cluster.scheduler.address, Path(plain) / "map.npy")
            if driver.wait(time.monotonic() + BOUND) != 0:
                raise SystemExit(f"The undisturbed fit failed:\n{driver.errors}")
            usual = driver.seconds
        expected = np.load(Path(plain) / "map.npy")
        number = args.first
        while len(result["trials"]) < args.trials:
            with tempfile.TemporaryDirectory(dir=home) as folder:
                came_out = trial(number, cluster, x, expected, usual, Path(folder))
            number += 1
            if came_out is None:
                continue
            result["trials"].append(came_out)
            print(f"{len(result['trials'])}: {came_out}", file=sys.stderr)
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"kills-{today}.json").write_text(json.dumps(result, indent=1) + "\n")
            (args.out / f"kills-{today}.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
