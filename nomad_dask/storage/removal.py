"""Removal of a directory: it is renamed first, so that it is whole or recognized as garbage at every instant."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from nomad_dask.errors import NomadWarning
from nomad_dask.storage.atomic import find_temporary, temporary_name
from nomad_dask.storage.lock import is_locked

_REMOVED = "removed"


def remove_directory(path: Path) -> None:
    """Remove a directory with all its content; what a kill leaves of it is removed by `remove_garbage`."""
    real = path.resolve()  # the directory may be a link to one on another disk
    garbage = temporary_name(real, _REMOVED)
    try:
        real.rename(garbage)
        if path.is_symlink():
            path.unlink()
    except OSError as error:
        warnings.warn(f"{path} cannot be removed ({error}): remove it yourself.", NomadWarning, stacklevel=2)
        return
    shutil.rmtree(garbage, ignore_errors=True)


def find_garbage(path: Path) -> list[Path]:
    """Return what is left of earlier directories of this name, whose removal was killed."""
    return [p for p in find_temporary(path.resolve(), _REMOVED) if p.is_dir() and not p.is_symlink()]


def remove_garbage(path: Path) -> None:
    """Remove what is left of earlier directories of this name, unless a running process is removing it."""
    for garbage in find_garbage(path):
        if not is_locked(garbage):
            shutil.rmtree(garbage, ignore_errors=True)
