"""The folder of a site, created as a whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nomad_dask.errors import InputError, NomadError, ResourceError
from nomad_dask.storage.atomic import find_temporary, temporary_name
from nomad_dask.storage.lock import hold_lock, is_locked, is_running, read_lock_owner
from nomad_dask.storage.regular_files import real_path

_SITE = "site"
_OLD = "old"
_PARTIAL = "partial"
_TRIAL = "trial"


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
    work = temporary_name(output, _PARTIAL)
    site, scratch, old = work / _SITE, work / "scratch", work / _OLD
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
    """Check, before any work, that a site can be written to a folder; see `recover_site` for what is left there.

    Raises
    ------
    InputError
    """
    recover_site(output)
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
    trial = temporary_name(real_path(output), _TRIAL)
    try:
        trial.mkdir()
        with suppress(FileNotFoundError):  # as `recover_site` of another process was faster
            trial.rmdir()
    except OSError as error:
        raise _translate_os_error(output, error) from error


def recover_site(output: Path) -> None:
    """Remove what killed exports have left of a site; one that was to be replaced gets its name back.

    There is a moment between two renames in which neither the old nor the new site has the name.

    Parameters
    ----------
    output : Path
        The folder of the site.
    """
    output = real_path(output)
    for trial in find_temporary(output, _TRIAL):
        with suppress(OSError):
            trial.rmdir()
    for work in find_temporary(output, _PARTIAL):
        if not work.is_dir() or work.is_symlink() or is_locked(work):
            continue
        owner = read_lock_owner(work)
        if owner is not None and is_running(owner) is not False:
            continue
        if (work / _OLD).exists() and (work / _SITE).exists() and not is_site(output):
            try:
                (work / _OLD).rename(output)
            except OSError:  # something else has the name
                continue
        shutil.rmtree(work, ignore_errors=True)


def is_site(folder: Path) -> bool:
    """Return whether a folder holds a complete site."""
    try:
        with (folder / "site.js").open("rb") as file:
            return file.read(13) == b'nomad("site",' and (folder / "index.html").is_file()
    except OSError:
        return False


def _translate_os_error(output: Path, error: OSError) -> NomadError:
    """Return the error to raise for a site that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(output.parent).free
        return ResourceError(
            f"The disk is full: the site {str(output)!r} cannot be written, {free:,} bytes are free. Free some space, "
            "or use a larger disk. The incomplete site was removed."
        )
    return InputError(f"The site {str(output)!r} cannot be written ({error}): use another folder.")
