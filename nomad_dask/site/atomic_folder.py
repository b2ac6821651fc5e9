"""The folder of a site, created as a whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nomad_dask.errors import InputError, NomadError, ResourceError
from nomad_dask.storage.atomic import find_temporary, temporary_name
from nomad_dask.storage.lock import hold_lock, is_running, read_lock_owner
from nomad_dask.storage.regular_files import real_path

_OLD = "old"
_PARTIAL = "partial"


@contextmanager
def staged_folder(output: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a folder for a site and one for temporary files, both beside `output`; at the end, rename the site.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Replace an existing site.

    Raises
    ------
    InputError
        The folder cannot be created, or is not empty.
    ResourceError
        The disk is full.
    """
    output = real_path(output)
    check_folder(output, overwrite)
    _remove_leftovers(output)
    work = temporary_name(output, _PARTIAL)
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
                raise _translate_os_error(output, error) from error
            finally:
                if old.exists() and not output.exists():
                    old.rename(output)
                for folder in (site, scratch, old):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_folder(output: Path, overwrite: bool) -> None:
    """Check, before any work, that a site can be written to a folder.

    Raises
    ------
    InputError
    """
    if output.is_dir():
        if any(output.iterdir()) and not (overwrite and is_site(output)):
            if is_site(output):
                problem, solution = "already holds a site", "use another one, or replace it with --overwrite"
            else:
                problem, solution = "is not empty and holds no site", "use a new or an empty one"
            raise InputError(f"The folder {str(output)!r} {problem}: {solution}.")
    elif output.exists() or output.is_symlink():
        raise InputError(f"{str(output)!r} is not a folder: use another name for the site.")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"The directory {str(parent)!r} of the site does not exist: create it first.")
    trial = temporary_name(output.absolute(), "trial")
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise _translate_os_error(output, error) from error


def is_site(folder: Path) -> bool:
    """Return whether a folder holds a complete site."""
    try:
        with (folder / "site.js").open("rb") as file:
            return file.read(13) == b'nomad("site",' and (folder / "index.html").is_file()
    except OSError:
        return False


def _remove_leftovers(output: Path) -> None:
    """Remove the temporary folders of exports that were killed, except one that holds the site it was to replace."""
    for folder in find_temporary(output, _PARTIAL):
        owner = read_lock_owner(folder)
        if owner is not None and is_running(owner) is False and not (folder / _OLD).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _translate_os_error(output: Path, error: OSError) -> NomadError:
    """Return the error to raise for a site that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(output.parent).free
        return ResourceError(
            f"The disk is full: the site {str(output)!r} cannot be written, {free:,} bytes are free. Free some space, "
            "or use a larger disk. The incomplete site was removed."
        )
    return InputError(f"The site {str(output)!r} cannot be written ({error}): use another folder.")
