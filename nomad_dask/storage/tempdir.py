"""The temporary workspace of a fit that was given none, so that it can be resumed after it was stopped."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryWorkspace:
    """A temporary directory, removed together with its owner, by `drop`, or when Python exits.

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
        self.drop = weakref.finalize(owner, shutil.rmtree, directory, ignore_errors=True)
