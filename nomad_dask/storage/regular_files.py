"""Files that are opened, created or replaced only if they are regular: no link is followed, no FIFO waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from nomad_dask.errors import InputError

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path, flags: int, mode: int = 0o644) -> int:
    """Open a regular file and return its descriptor.

    Parameters
    ----------
    path : Path
    flags : int
        As for `os.open`.
    mode : int
        Permissions of a file that is created, before the umask.

    Raises
    ------
    OSError
        The file cannot be opened, or is not a regular file: a symbolic link is not followed, a FIFO not waited for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"It is {_kind(found)}, not a regular file", str(path))
    return descriptor


def real_path(path: Path) -> Path:
    """Return the absolute path without links; of a loop of links, as far as it leads, where `Path.resolve` raises."""
    return Path(os.path.realpath(path))


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        The file cannot be opened, is not a regular file, or is longer than `max_bytes`.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"It has more than {max_bytes:,} bytes", str(path))
    return content


def check_replaceable(path: Path) -> None:
    """Check that a file of this name can be created, or that it is a regular file, which can be replaced.

    Raises
    ------
    InputError
        It is a symbolic link, directory, FIFO, socket or device.
    """
    try:
        found = path.lstat().st_mode
    except OSError:
        return  # it does not exist, or the error appears when it is created
    if not stat.S_ISREG(found):
        target = f" to {str(path.readlink())!r}" if stat.S_ISLNK(found) else ""
        raise InputError(
            f"{str(path)!r} is {_kind(found)}{target}, only regular files are replaced: give another name"
            f"{', or the name of the file itself' if target else ''}."
        )


def _kind(mode: int) -> str:
    """Return what a file is, in words."""
    return next((text for is_kind, text in _KINDS if is_kind(mode)), "no file")
