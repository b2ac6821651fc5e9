"""A full disk, reported with the name of the file and what to do."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nomad_dask.errors import ResourceError


class DiskFullError(ResourceError):
    """The disk has no space left for a file; finished stages stay in the workspace."""


@contextmanager
def translate_disk_full(path: Path, size: int | None = None) -> Iterator[None]:
    """Raise `DiskFullError` in place of the `OSError` of a write that a full disk, quota or size limit has stopped.

    Parameters
    ----------
    path : Path
        The file that is written.
    size : int, optional
        Its size in bytes, if known.

    Raises
    ------
    DiskFullError
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full_error(path, size) from error


def disk_full_error(path: Path, size: int | None = None) -> DiskFullError:
    """Return the error for a file that does not fit on the disk."""
    directory = path.parent
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    of_size = "" if size is None else f" of {size:,} bytes"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < free:
        return DiskFullError(
            f"{path}{of_size} cannot be written: this process may write no file of more than {limit:,} bytes. Raise "
            "the limit (ulimit -f), and run the same command again: finished stages are kept."
        )
    return DiskFullError(
        f"The disk is full: {path}{of_size} cannot be written, {free:,} bytes are free. "
        "Free some space, or move the workspace to a larger disk, and run the same command again: finished stages "
        "are kept."
    )


def is_disk_full(error: OSError) -> bool:
    """Return whether an error says that the disk, a quota or the limit on the size of files is exhausted."""
    # numpy.ndarray.tofile raises an OSError without errno and names the cause in its message only.
    message = str(error)
    short_write = "Not enough free space to write" in message or ("requested and" in message and "written" in message)
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (error.errno is None and short_write)
