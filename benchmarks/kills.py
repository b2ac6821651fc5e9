"""Kill workers and drivers of one small fit at random moments, finish it, and compare the maps bit for bit.

    python -m benchmarks.kills --trials 200

Every trial is one fit by a separate process (the driver) on a cluster of two worker processes with nannies. At a
random moment of a random stage a random victim receives SIGKILL: one worker, all workers, or the driver. A killed
driver is started again and resumes its workspace. A trial that exceeds the time limit counts as a hang. The result is
written after every trial.
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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import HERE, machine, versions

N_ROWS, N_DIMS, N_EPOCHS, N_SHARDS = 3000, 16, 60, 2
STAGES = ("sample", "cells", "shards", "neighbors", "layout")
VICTIMS = ("worker", "all workers", "driver")
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
    np.save(out, made.positions)


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


@contextmanager
def cluster() -> Iterator[Any]:
    """Yield a client of two worker processes."""
    import dask.config
    from distributed import Client, LocalCluster

    with (
        # Or Dask closes the nanny of a worker that is gone again 15 s after it was lost.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", memory_limit="2GiB",
            dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False}, silence_logs=50,
        ) as workers,
        Client(workers, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


def trial(number: int, client: Any, x: Path, expected: np.ndarray, usual: dict[str, float], folder: Path) -> Any:
    """Run one trial and return its result; None if the fit was complete before the kill."""
    draw = random.Random(number)
    stage, victim = draw.choice(STAGES), draw.choice(VICTIMS)
    delay = draw.random() * usual[stage]
    out, workspace = folder / "map.npy", folder / "work"
    client.wait_for_workers(2, timeout=60)
    pids = sorted(client.run(os.getpid).values())
    address = client.scheduler.address
    began = time.monotonic()
    deadline = began + BOUND
    driver = Driver(x, workspace, address, out)
    in_time = driver.started[stage].wait(BOUND)
    time.sleep(delay)
    if in_time and driver.process.poll() is not None:
        driver.wait(deadline)
        return None
    targets = {"worker": [draw.choice(pids)], "all workers": pids, "driver": [driver.process.pid]}[victim]
    for pid in targets:
        os.kill(pid, signal.SIGKILL)
    code = driver.wait(deadline)
    if victim == "driver":
        driver = Driver(x, workspace, address, out)
        code = driver.wait(deadline)
    if code is None:
        outcome = "hang"
    elif code != 0:
        outcome = "error"
    else:
        outcome = "equal" if np.array_equal(np.load(out), expected) else "different"
    return {
        "trial": number,
        "stage": stage,
        "delay_s": round(delay, 3),
        "victim": victim,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 2),
        "said": "" if code == 0 else driver.errors.strip()[-1000:],
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
        f"dimensions, {N_SHARDS} shards on 2 worker processes, {N_EPOCHS} epochs. A trial of more than "
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
    with tempfile.TemporaryDirectory(prefix="nomad-kills-") as name, cluster() as client:
        home = Path(name)
        x = home / "x.npy"
        data(x)
        usual: dict[str, float] = {}
        for _ in range(2):  # compiled code is cached by the first
            plain = tempfile.mkdtemp(dir=home)
            driver = Driver(x, Path(plain) / "work", client.scheduler.address, Path(plain) / "map.npy")
            if driver.wait(time.monotonic() + BOUND) != 0:
                raise SystemExit(f"The undisturbed fit failed:\n{driver.errors}")
            usual = driver.seconds
        expected = np.load(Path(plain) / "map.npy")
        number = args.first
        while len(result["trials"]) < args.trials:
            with tempfile.TemporaryDirectory(dir=home) as folder:
                came_out = trial(number, client, x, expected, usual, Path(folder))
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
