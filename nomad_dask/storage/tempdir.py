"""The temporary workspace of a fit that was given none, so that it can be resumed after it was stopped."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryWorkspace:
    """A temporary directory, removed together with its owner, by `drop`, or when Python exits.

    Only the process that made it removes it: a forked one has a copy of the owner, and may drop that or exit.

    Parameters
    ----------
    owner : object
        The directory is removed when this object is garbage-collected.

    Attributes
    ----------
    path : Path
        A path in the directory, which does not exist yet.
    """

    def __init__(self, owner: object) -> None:
        directory = Path(tempfile.mkdtemp(prefix="nomad-"))
        self.path = directory / "workspace"
        self.drop = weakref.finalize(owner, _remove, directory, os.getpid())


def _remove(directory: Path, made_by: int) -> None:
    if os.getpid() == made_by:
        shutil.rmtree(directory, ignore_errors=True)
