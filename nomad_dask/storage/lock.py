"""A lock that allows one run at a time in a workspace, ends with its process, and records its owner."""

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
    """The process that holds the lock of a workspace, as recorded in the lock file.

    Attributes
    ----------
    host : str
    pid : int
    since : float
        Time at which it acquired the lock, in seconds since 1970.
    """

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Lock a directory for one run. It is created if missing, and removed if it is empty at the end.

    The kernel releases the lock when the process ends in any way, so the file of a killed process does not block.

    Raises
    ------
    WorkspaceError
        The directory is in use by another process, or by another run of this process.
    InputError
        The directory cannot be created or written.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = path / LOCK
        descriptor = _acquire(file)
    except OSError as error:
        raise InputError(f"The workspace {str(path)!r} cannot be created ({error}): give another directory.") from error
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        # On a full disk the owner is not recorded, but the lock is held.
        with suppress(OSError):
            os.write(descriptor, json.dumps(owner).encode())
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with suppress(OSError):
                path.rmdir()


def _acquire(file: Path) -> int:
    """Return the descriptor of the locked file, which still has this name."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            owner = read_lock_owner(file.parent) or "another process"
            raise WorkspaceError(
                f"{file.parent} is in use by {owner}: wait until it ends, or give another workspace."
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise WorkspaceError(
                f"{file.parent} cannot be locked ({error}): give a workspace on a file system that supports locks."
            ) from error
        os.close(descriptor)  # the previous owner removed the file in the meantime


def read_lock_owner(path: Path) -> LockOwner | None:
    """Return the recorded owner of a workspace, which may have been killed since, or None."""
    try:
        owner = json.loads((path / LOCK).read_text())
        return LockOwner(str(owner["host"]), int(owner["pid"]), float(owner["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_running(owner: LockOwner) -> bool | None:
    """Return whether an owner still runs; None if it is on another host, where this is unknown."""
    if owner.host != socket.gethostname():
        return None
    import psutil

    try:
        # A process that started later reuses the number.
        return bool(psutil.Process(owner.pid).create_time() < owner.since + 1)
    except psutil.NoSuchProcess:
        return False
