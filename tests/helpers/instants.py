"""Copies of a folder before every change that a command makes there."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}


class Recorder:
    """An audit hook that copies a folder before every change below it."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.lock = threading.Lock()
        self.busy = threading.local()
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if getattr(self.busy, "value", False):
            return
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        # shutil.rmtree removes names relative to an open folder.
        if isinstance(path, str | Path) and (str(path).startswith(str(self.folder)) or not str(path).startswith("/")):
            self.copy(f"{event} {Path(path).name}")

    def copy(self, what: str) -> None:
        self.busy.value = True
        try:
            with self.lock:
                target = self.copies / f"{self.count:04d} {what}"
                shutil.copytree(self.folder, target, symlinks=True)
                self.count += 1
        finally:
            self.busy.value = False


def record(folder: Path, copies: Path, arguments: list[str]) -> None:
    """Run a command, and copy a folder before every change that it makes there: the states that a kill can leave.

    In a process of its own, as an audit hook stays to its end.
    """
    from nomad_dask.cli import cli

    recorder = Recorder(folder, copies)
    sys.addaudithook(recorder)
    cli(arguments, prog_name="nomad-dask", standalone_mode=False)
    recorder.copy("end")
