"""Where a fit without a workspace works, so that it can be resumed after it was stopped."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryWorkspace:
    """A temporary directory that goes with its owner, or when it is dropped, or when Python ends.

    Parameters
    ----------
    owner : object
        When nothing refers to it any more, the directory is removed.

    Attributes
    ----------
    workspace : Path
        A place in it, not made yet.
    """

    def __init__(self, owner: object) -> None:
        folder = Path(tempfile.mkdtemp(prefix="nomad-"))
        self.workspace = folder / "workspace"
        self.drop = weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
