"""Real processes for tests: schedulers and workers started as people start them, and the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.forked import ForkedProcess

NOMAD = str(Path(sys.executable).with_name("nomad-dask"))


def wait_until(true: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    """Wait until something is so, and return what it gave; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.02)
    return found


def _dask(name: str, arguments: tuple[str, ...], log: Path) -> None:
    from distributed.cli import dask_scheduler, dask_worker

    with log.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    {"scheduler": dask_scheduler, "worker": dask_worker}[name].main(list(arguments))


def _nomad(arguments: list[str]) -> None:
    from nomad_dask.cli import main

    sys.argv = [NOMAD, *arguments]
    main()


DaskProcess = subprocess.Popen[bytes] | ForkedProcess


def start_dask(
    name: str, arguments: tuple[str, ...], log: Path, environment: dict[str, str], before: tuple[str, ...] | None = None
) -> DaskProcess:
    """Start ``dask scheduler`` or ``dask worker``: from new, as people do, if `before` is given to put before it."""
    if before is None:
        return ForkedProcess(_dask, name, arguments, log, cwd=log.parent, env=environment)
    command = (*before, sys.executable, "-m", "dask", name, *arguments)
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=log.parent)


@dataclass
class Scheduler:
    """A scheduler and workers, each a process of its own, without nannies unless asked for."""

    process: DaskProcess
    address: str
    folder: Path
    environment: dict[str, str]
    workers: list[DaskProcess] = field(default_factory=list)

    def add_worker(self, *options: str, before: tuple[str, ...] = ()) -> DaskProcess:
        """Start a worker; `before` is put before its command, such as ``unshare``."""
        from_new = before or "--preload" in options
        options = ("--host", "127.0.0.1", "--no-dashboard", "--nthreads", "1", "--memory-limit", "2GiB", *options)
        if "--nanny" not in options:
            options = (*options, "--no-nanny")
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = start_dask("worker", (self.address, *options), log, self.environment, before if from_new else None)
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, n: int) -> None:
        """Wait until so many have joined."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n, timeout=60)


@contextmanager
def scheduler_process(
    folder: Path, n_workers: int = 0, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Scheduler]:
    """Give a scheduler in a process of its own, and end it and its workers, frozen ones too.

    Processes are forked, but for workers with something to preload, or to put before their command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    variables = dict(os.environ) | dict(environment or {})
    arguments = ("--port", "0", "--no-dashboard", *options)
    arguments = (*arguments, "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file))
    if "--host" not in options:
        arguments = (*arguments, "--host", "127.0.0.1")
    process = start_dask("scheduler", arguments, folder / "scheduler.log", variables)
    started = Scheduler(process, "", folder, variables)
    try:
        wait_until(lambda: file.exists() and file.read_text().strip().endswith("}"), what="the scheduler's file")
        started.address = json.loads(file.read_text())["address"]
        for _ in range(n_workers):
            started.add_worker()
        if n_workers:
            started.wait_for_workers(n_workers)
        yield started
    finally:
        for one in (*started.workers, process):
            kill_tree(one.pid)
            one.wait()


def kill_tree(pid: int) -> None:
    """Kill a process that a test has started, and its descendants."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def descendants(pid: int) -> list[psutil.Process]:
    """Return the living descendants of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def worker_pids(pid: int) -> list[int]:
    """Return the worker processes that a process has started."""
    found = []
    for process in descendants(pid):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "spawn_main" in line or "Dask Worker" in line:
            found.append(process.pid)
    return found


def stages_done(workspace: Path) -> set[str]:
    """Return what the manifest of a workspace holds."""
    try:
        return set(json.loads((workspace / "manifest.json").read_text())["stages"])
    except (OSError, ValueError):
        return set()


def without_progress(errors: str) -> str:
    """Return what a command wrote to standard error without the lines that say, every few seconds, what runs."""
    progress = re.compile(r"(\w[\w ]*: .*\d\.\d|working for \d+\.\d) (s|min|h)\n?")
    return "".join(line for line in errors.splitlines(keepends=True) if not progress.fullmatch(line))


@contextmanager
def command_line(*arguments: str | Path, from_new: bool = False, **more: Any) -> Iterator[Any]:
    """Run ``nomad-dask`` in a process group of its own; it is killed if it still runs at the end.

    It is forked; from new, as people start it, it takes seconds of imports.
    """
    process: subprocess.Popen[str] | ForkedProcess
    if from_new:
        process = subprocess.Popen(
            [NOMAD, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **more,
        )  # fmt: skip
    else:
        process = ForkedProcess(_nomad, [str(argument) for argument in arguments], **more)
    try:
        yield process
    finally:
        kill_tree(process.pid)
        process.communicate()


def run_nomad(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run ``nomad-dask`` to its end, as `command_line` does."""
    with command_line(*map(str, arguments), **more) as process:
        out, errors = process.communicate(timeout=200)
    return subprocess.CompletedProcess(list(arguments), process.returncode, out, errors)
