"""The workspace: a directory of artifacts, written whole or not at all, indexed by one manifest."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import WorkspaceError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """One file of the workspace, as the manifest knows it.

    Attributes
    ----------
    path : str
        Relative to the workspace, with forward slashes.
    size : int
        Bytes.
    crc32 : int
        Checksum of the content.
    """

    path: str
    size: int
    crc32: int


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write to, renamed to `path` when all went well and removed when not.

    A file that is not `durable` may be lost when the machine stops: for what is made again then anyway.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb") as f:
                os.fsync(f.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read in pieces."""
    crc = 0
    with path.open("rb") as f:
        while piece := f.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return crc


class Workspace:
    """A directory that holds what the stages made. Workers write artifacts, only the driver the manifest.

    Parameters
    ----------
    path : path-like
        The directory; made when missing.
    identity : dict
        What the artifacts depend on: the source's fingerprint and the parameters. None reads whatever is there.

    Raises
    ------
    WorkspaceError
        The directory holds another run, or is not a workspace.
    """

    def __init__(self, path: str | os.PathLike[str], identity: dict[str, Any] | None = None) -> None:
        self.path = Path(path).absolute()
        known = self._load_manifest()
        if known is None:
            if identity is None:
                raise WorkspaceError(f"{self.path} holds no {MANIFEST}: give the directory of a run.")
            if self.path.exists() and any(self.path.iterdir()):
                raise WorkspaceError(f"{self.path} is neither empty nor a workspace: give an empty or a new directory.")
            known = {"format": FORMAT, "identity": identity, "stages": {}}
            self.path.mkdir(parents=True, exist_ok=True)
            self._manifest: dict[str, Any] = known
            self._store_manifest()
        elif identity is not None and known["identity"] != json.loads(json.dumps(identity)):
            changed = _differences(known["identity"], json.loads(json.dumps(identity)))
            raise WorkspaceError(
                f"{self.path} belongs to another run ({changed}): give another workspace, or --overwrite it."
            )
        self._manifest = known

    def _load_manifest(self) -> dict[str, Any] | None:
        file = self.path / MANIFEST
        if not file.exists():
            return None
        try:
            manifest: dict[str, Any] = json.loads(file.read_text())
            version = manifest["format"]
            if version == FORMAT:
                _check_manifest(manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{file} is damaged ({error}): give another workspace.") from error
        if version != FORMAT:
            raise WorkspaceError(f"{file} has format {version!r}, this version reads {FORMAT}: give another workspace.")
        return manifest

    def _store_manifest(self) -> None:
        with whole_file(self.path / MANIFEST) as partial:
            partial.write_text(json.dumps(self._manifest, indent=1))

    @property
    def identity(self) -> dict[str, Any]:
        """What the artifacts depend on, as given when the workspace was made."""
        return dict(self._manifest["identity"])

    def file(self, name: str) -> Path:
        """Return the path of an artifact, refusing names that leave the workspace."""
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise WorkspaceError(f"{name!r} leads out of the workspace {self.path}.")
        return path

    def save(self, name: str, array: np.ndarray) -> Artifact:
        """Write an array as ``.npy``, whole or not at all."""
        with whole_file(self.file(name)) as partial, partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        return self.describe(name)

    def load(self, name: str, mmap: bool = False) -> Any:
        """Read an array artifact, memory-mapped on request."""
        return np.load(self.file(name), mmap_mode="r" if mmap else None, allow_pickle=False)

    def describe(self, name: str) -> Artifact:
        """Measure a file that was just written."""
        path = self.file(name)
        return Artifact(name, path.stat().st_size, checksum(path))

    def record(self, stage: str, artifacts: list[Artifact], **facts: Any) -> None:
        """Note in the manifest that a stage is done, with its artifacts and facts (plain values)."""
        self._manifest["stages"][stage] = {
            "artifacts": {a.path: {"size": a.size, "crc32": a.crc32} for a in artifacts},
            "facts": facts,
        }
        self._store_manifest()

    def facts(self, stage: str) -> dict[str, Any] | None:
        """Return the facts of a finished stage whose artifacts are all there and undamaged, else None."""
        entry = self._manifest["stages"].get(stage)
        if entry is None:
            return None
        for name, known in entry["artifacts"].items():
            path = self.file(name)
            if not path.exists() or path.stat().st_size != known["size"] or checksum(path) != known["crc32"]:
                return None
        return dict(entry["facts"])

    def forget(self, stage: str) -> None:
        """Remove a stage and its artifacts, manifest first so that no entry is left without its files."""
        entry = self._manifest["stages"].pop(stage, None)
        if entry is None:
            return
        self._store_manifest()
        for name in entry["artifacts"]:
            self.file(name).unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Remove a folder of artifacts that no stage needs any more."""
        shutil.rmtree(self.file(folder), ignore_errors=True)


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise a plain TypeError or KeyError for a manifest that this version has not written."""
    parts = [manifest["identity"], manifest["stages"]]
    for stage in manifest["stages"].values() if isinstance(manifest["stages"], dict) else ():
        parts += [stage["facts"], stage["artifacts"]]
    if not all(isinstance(part, dict) for part in parts):
        raise TypeError("a part is no mapping")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """Name what differs between two identities."""
    parts = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            parts.append(_differences(a, b, f"{key}."))
        elif a != b:
            parts.append(f"{prefix}{key}: {a!r} there, {b!r} now")
    return "; ".join(parts)
