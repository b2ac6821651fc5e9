"""A lock that allows one run at a time in a workspace, ends with its process, and records its owner."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from nomad_dask.errors import InputError, WorkspaceError
from nomad_dask.storage.disk_full import translate_disk_full
from nomad_dask.storage.regular_files import open_regular, read_regular
from nomad_dask.utils.interrupts import deferred

LOCK = ".lock"
_MAX_LOCK_BYTES = 4096
_MAX_PID = 1 << 31
_MAX_TIME = 1e11
_MAX_TRIES = 100


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


def hold_lock(path: Path) -> AbstractContextManager[None]:
    """Lock a directory for one run. It is created if missing, and removed if it is empty at the end.

    The kernel releases the lock when the process ends in any way, so the file of a killed process does not block.

    Raises
    ------
    WorkspaceError
        The directory is in use by another process, or by another run of this process.
    InputError
        The directory cannot be created or written.
    DiskFullError
        The disk is full.
    """
    return _HeldLock(path)


class _HeldLock:
    """See `hold_lock`. No generator: one that is interrupted while it is entered stays open with its traceback."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_new = False
        self._taken_by = 0

    def __enter__(self) -> None:
        try:
            with deferred():
                self._take()
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            with deferred():
                self._release()
        except BaseException:
            self._release()  # the Ctrl-C came before it was deferred
            raise

    def _take(self) -> None:
        file = self._path / LOCK
        is_new = False
        try:
            is_new = not self._path.exists()
            with translate_disk_full(file):
                self._descriptor = _acquire(file)
        except OSError as error:
            raise InputError(
                f"The workspace {str(self._path)!r} cannot be created ({error}): give another directory."
            ) from error
        except WorkspaceError:
            self._remove_if_empty(is_new)
            raise
        self._is_new, self._taken_by = is_new, os.getpid()
        owner = {"host": socket.gethostname(), "pid": self._taken_by, "since": time.time()}
        os.ftruncate(self._descriptor, 0)
        # On a full disk the owner is not recorded, but the lock is held.
        with suppress(OSError):
            os.write(self._descriptor, json.dumps(owner).encode())

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if os.getpid() != self._taken_by:  # a forked process has a copy, and the lock stays with its parent
            os.close(descriptor)
            return
        # The directory may have been renamed, and another process may hold a new one of this name.
        if _is_same_file(descriptor, self._path / LOCK):
            (self._path / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        self._remove_if_empty(self._is_new)

    def _remove_if_empty(self, is_new: bool) -> None:
        if is_new:
            with suppress(OSError):
                self._path.rmdir()


def _acquire(file: Path) -> int:
    """Return the descriptor of the locked file, which still has this name, in a directory that is made for it."""
    n_tries = 0
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = open_regular(file, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # the previous owner removed the directory in the meantime
            n_tries += 1
            if n_tries == _MAX_TRIES:
                raise
            continue
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise OSError(f"{file} is a hard link to another file, which would be overwritten")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(descriptor, file):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            owner = read_lock_owner(file.parent) or "another process"
            raise WorkspaceError(
                f"{file.parent} is in use by {owner}: wait until it ends, or give another directory."
            ) from error
        except OSError as error:
            if not os.fstat(descriptor).st_size:
                file.unlink(missing_ok=True)
            os.close(descriptor)
            raise WorkspaceError(
                f"{file.parent} cannot be locked ({error}): give a workspace on a file system that supports locks."
            ) from error
        os.close(descriptor)  # the previous owner removed the file in the meantime


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a directory; False where there is no lock, or no support for locks."""
    try:
        descriptor = open_regular(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _is_same_file(descriptor: int, file: Path) -> bool:
    """Return whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except OSError:
        return False


def read_lock_owner(path: Path) -> LockOwner | None:
    """Return the recorded owner of a workspace, which may have been killed since, or None."""
    try:
        owner = json.loads(read_regular(path / LOCK, _MAX_LOCK_BYTES))
        owner = LockOwner(str(owner["host"]), int(owner["pid"]), float(owner["since"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    return owner if 0 < owner.pid < _MAX_PID and 0 <= owner.since < _MAX_TIME else None


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
