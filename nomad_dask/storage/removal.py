"""Removal of a directory: it is renamed first, so that it is whole or recognized as garbage at every instant."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from nomad_dask.errors import NomadWarning
from nomad_dask.storage.atomic import find_temporary, temporary_name
from nomad_dask.storage.lock import is_locked
from nomad_dask.storage.regular_files import real_path

REMOVED = "removed"


def remove_directory(path: Path, token: str | None = None) -> None:
    """Remove a directory with all its content; what a kill leaves of it is removed by `remove_garbage`.

    Parameters
    ----------
    path : Path
    token : str, optional
        8 hexadecimal digits, by which `is_garbage` recognizes what is left.
    """
    real = real_path(path)  # the directory may be a link to one on another disk
    garbage = temporary_name(real, REMOVED, token)
    try:
        real.rename(garbage)
        if path.is_symlink():
            path.unlink()
    except OSError as error:
        warnings.warn(f"{path} cannot be removed ({error}): remove it yourself.", NomadWarning, stacklevel=2)
        return
    shutil.rmtree(garbage, ignore_errors=True)


def is_garbage(path: Path, token: str) -> bool:
    """Return whether something is left of a directory of this name that was removed with a token."""
    return temporary_name(real_path(path), REMOVED, token).is_dir()


def remove_garbage(path: Path) -> None:
    """Remove what is left of earlier directories of this name, unless a running process is removing it."""
    for garbage in find_temporary(real_path(path), REMOVED):
        if garbage.is_dir() and not garbage.is_symlink() and not is_locked(garbage):
            shutil.rmtree(garbage, ignore_errors=True)
