"""The folder of a run's artifacts, as tasks use it: they write and read artifacts, and know nothing of the manifest."""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import WorkspaceError
from nomad_dask.storage.atomic import atomic_write
from nomad_dask.storage.disk_full import translate_disk_full
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.regular_files import real_path


class ArtifactFolder:
    """A folder of artifacts, each written atomically.

    Parameters
    ----------
    path : path-like
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._real_path = real_path(self.path)

    def file(self, name: str) -> Path:
        """Return the path of an artifact.

        Raises
        ------
        WorkspaceError
            The name leads out of the workspace.
        """
        path = real_path(self.path / name)
        if not path.is_relative_to(self._real_path):
            raise WorkspaceError(
                f"{name!r} leads out of the workspace {self.path}: remove the link, or give another workspace."
            )
        return path

    def save(self, name: str, array: np.ndarray) -> Artifact:
        """Write an array as ``.npy`` atomically."""
        path = self.file(name)
        with atomic_write(path) as partial, translate_disk_full(path, array.nbytes), partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        return self.describe(name)

    def load(self, name: str, mmap: bool = False) -> Any:
        """Read an array artifact, or memory-map it."""
        return np.load(self.file(name), mmap_mode="r" if mmap else None, allow_pickle=False)

    def damage_of(self, artifact: Artifact, sizes_only: bool = False) -> str | None:
        """Return what is wrong with an artifact, compared with what was recorded of it; None if nothing is.

        Parameters
        ----------
        artifact : Artifact
        sizes_only : bool
            Compare the size of the file only, not its checksum.
        """
        name, path = artifact.path, self.file(artifact.path)
        try:
            status = path.lstat()
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is not a regular file"
            if size != artifact.size:
                return f"{name} has {size:,} bytes instead of {artifact.size:,}"
            if not sizes_only and checksum(path) != artifact.crc32:
                return f"{name} does not match its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    def describe(self, name: str) -> Artifact:
        """Return size and checksum of a file that was just written."""
        path = self.file(name)
        return Artifact(name, path.stat().st_size, checksum(path))


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    crc = 0
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc
