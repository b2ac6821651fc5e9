"""The folder of a site: there is a whole site under its name, or none."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nomad_dask.errors import InputError, NomadError, ResourceError
from nomad_dask.storage.lock import hold_lock, is_running, read_lock_owner

_OLD = "old"


@contextmanager
def staged_folder(output: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a folder beside `output` for a site, and one for files on the way; at the end the site is `output`.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Replace a site.

    Raises
    ------
    InputError
        The folder cannot be made, or holds something.
    ResourceError
        The disk has no room.
    """
    output = output.resolve()
    check_folder(output, overwrite)
    _sweep(output)
    work = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    site, scratch, old = work / "site", work / "scratch", work / _OLD
    try:
        with hold_lock(work):
            try:
                site.mkdir()
                scratch.mkdir()
                yield site, scratch
                if output.is_dir() and any(output.iterdir()):
                    output.rename(old)
                site.replace(output)
            except NomadError:
                raise
            except OSError as error:
                raise _told(output, error) from error
            finally:
                if old.exists() and not output.exists():
                    old.rename(output)
                for folder in (site, scratch, old):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_folder(output: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder in which no site can be.

    Raises
    ------
    InputError
    """
    if output.is_dir():
        if any(output.iterdir()) and not (overwrite and is_site(output)):
            what = "holds a site already" if is_site(output) else "is not empty and holds no site"
            way = "give another, or --overwrite it" if is_site(output) else "give a new or an empty one"
            raise InputError(f"The folder {str(output)!r} {what}: {way}.")
    elif output.exists() or output.is_symlink():
        raise InputError(f"{str(output)!r} is no folder: a site is one, give another name.")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"The directory {str(parent)!r} of the site does not exist: make it first.")
    trial = parent / f".{output.name}.{secrets.token_hex(4)}.trial"
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise _told(output, error) from error


def is_site(folder: Path) -> bool:
    """Return whether a folder holds a site that was written whole."""
    try:
        with (folder / "site.js").open("rb") as file:
            return file.read(13) == b'nomad("site",' and (folder / "index.html").is_file()
    except OSError:
        return False


def _sweep(output: Path) -> None:
    """Remove what exports of this site left that were killed; one that lost an old site is left alone."""
    for folder in output.parent.iterdir():
        if folder.name.startswith(f".{output.name}.") and folder.name.endswith(".partial"):
            holder = read_lock_owner(folder)
            if holder is not None and is_running(holder) is False and not (folder / _OLD).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _told(output: Path, error: OSError) -> NomadError:
    """Return the error of a site that cannot be written, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(output.parent).free
        return ResourceError(
            f"The disk is full: the site {str(output)!r} cannot be written, {free:,} bytes are free. Free some, or "
            "write it to a larger disk. What was written of it is removed."
        )
    return InputError(f"The site {str(output)!r} cannot be written ({error}): give another folder.")
