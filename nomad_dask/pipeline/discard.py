"""Removal of the workspace of a run that was refused before it had anything to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nomad_dask.errors import WorkspaceError
from nomad_dask.pipeline.setup import SOURCE_COPY
from nomad_dask.pipeline.stages import artifact_folders
from nomad_dask.storage.manifest import MANIFEST, PREVIOUS_MANIFEST
from nomad_dask.storage.removal import remove_directory
from nomad_dask.storage.workspace import Workspace


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
