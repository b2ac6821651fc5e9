"""Removal of a workspace that has nothing to keep: its run was refused, or cannot be read any more."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nomad_dask.errors import NomadWarning, WorkspaceError
from nomad_dask.pipeline.setup import SOURCE_COPY
from nomad_dask.pipeline.stages import artifact_folders
from nomad_dask.storage.manifest import MANIFEST, PREVIOUS_MANIFEST, DamagedManifestError, read_manifest
from nomad_dask.storage.removal import remove_directory
from nomad_dask.storage.workspace import Workspace, has_only_own_files


@contextmanager
def discard_unstarted(path: Path, refusals: tuple[type[Exception], ...], whole: bool) -> Iterator[None]:
    """Remove the workspace of a run that is refused before its first stage is finished, as it has nothing to keep.

    Parameters
    ----------
    path : Path
    refusals : tuple of type
        Errors that refuse a run.
    whole : bool
        Whether to remove the directory too, not only the files of the workspace.
    """
    try:
        yield
    except refusals:
        with suppress(WorkspaceError, OSError):
            if (path / MANIFEST).exists() and not Workspace(path).stages():
                remove_directory(path) if whole else _remove_files(path)
        raise


def _remove_files(path: Path) -> None:
    """Remove the files of a workspace; its manifests last, without which they would belong to no run."""
    workspace = Workspace(path)
    folders = set().union(*artifact_folders().values())
    workspace.clean(folders)
    for folder in folders:
        with suppress(FileNotFoundError):
            workspace.file(folder).rmdir()
    (path / SOURCE_COPY).unlink(missing_ok=True)
    (path / PREVIOUS_MANIFEST).unlink(missing_ok=True)
    (path / MANIFEST).unlink()


def discard_unreadable(path: Path) -> None:
    """Remove the files of a workspace whose manifests are damaged, and warn: nothing of its run can be resumed.

    For the workspace beside an output only, which no other run uses. With files that are not its own it is left.
    """
    try:
        read_manifest(path)
    except DamagedManifestError:
        if not has_only_own_files(path):
            return
        warnings.warn(f"The manifests of {path} are damaged: the run starts again.", NomadWarning, stacklevel=3)
        for folder in set().union(*artifact_folders().values()):
            shutil.rmtree(path / folder, ignore_errors=True)
        for file in (SOURCE_COPY, PREVIOUS_MANIFEST, MANIFEST):
            (path / file).unlink(missing_ok=True)
