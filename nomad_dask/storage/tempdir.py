"""Temporary directories that outlive the function that makes them: of a stopped fit, and of a model."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Self


class KeptDirectory:
    """A temporary directory, removed together with this object, by `drop`, or when Python exits.

    As a context manager it is removed after an error, and kept otherwise. Only the process that made it removes it: a
    forked one has a copy of the object, and may drop that or exit.

    Attributes
    ----------
    path : Path
        A path in the directory, which does not exist yet.
    """

    def __init__(self, name: str) -> None:
        directory = Path(tempfile.mkdtemp(prefix="nomad-"))
        self.path = directory / name
        self.drop = weakref.finalize(self, _remove, directory, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.drop()


def _remove(directory: Path, made_by: int) -> None:
    if os.getpid() == made_by:
        shutil.rmtree(directory, ignore_errors=True)
