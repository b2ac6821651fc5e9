"""One run at a time in a workspace: a lock that ends with its process, and says who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nomad_dask.errors import InputError, WorkspaceError

LOCK = ".lock"


@dataclass(frozen=True)
class LockOwner:
    """The process that works in a workspace, as it has written itself down.

    Attributes
    ----------
    host : str
    pid : int
    since : float
        When it began, in seconds since 1970.
    """

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {began}"


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a directory for one run; it is made when missing, and removed if nothing was put there.

    The lock is the kernel's and ends with the process, however that ends: what a killed one left is no obstacle.

    Raises
    ------
    WorkspaceError
        Another process, or another run of this one, works there.
    InputError
        The directory cannot be made, or not be written.
    """
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = path / LOCK
        descriptor = _acquire(file)
    except OSError as error:
        raise InputError(f"The workspace {str(path)!r} cannot be made ({error}): give another directory.") from error
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        # On a full disk nobody learns who holds it; it holds all the same.
        with suppress(OSError):
            os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):
                path.rmdir()


def _acquire(file: Path) -> int:
    """Return an open file that is locked and still the one of that name."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            who = read_lock_owner(file.parent) or "another process"
            raise WorkspaceError(
                f"{file.parent} is in use by {who}: wait until it ends, or give another workspace."
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise WorkspaceError(
                f"{file.parent} cannot be locked ({error}): give a workspace on a file system with locks."
            ) from error
        os.close(descriptor)  # its holder removed it in between


def read_lock_owner(path: Path) -> LockOwner | None:
    """Return who has written itself down as the holder of a workspace; it may have been killed since."""
    try:
        known = json.loads((path / LOCK).read_text())
        return LockOwner(str(known["host"]), int(known["pid"]), float(known["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_running(holder: LockOwner) -> bool | None:
    """Return whether a holder still runs; None when it is on another host, where that cannot be seen."""
    if holder.host != socket.gethostname():
        return None
    import psutil

    try:
        # A process that began later has only been given the same number.
        return bool(psutil.Process(holder.pid).create_time() < holder.since + 1)
    except psutil.NoSuchProcess:
        return False
