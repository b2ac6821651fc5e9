"""The workspace: a directory of artifacts, written whole or not at all, indexed by one manifest."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nomad_dask.errors import ResourceError, WorkspaceError
from nomad_dask.storage.lock import LOCK

FORMAT = 1
MANIFEST = "manifest.json"
# Folders of artifacts: what is found there and not in the manifest is left over from a run that was killed.
FOLDERS = ("sample", "coarse", "cells", "exchange", "shards", "lists", "graph", "layout")


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


class DiskFullError(ResourceError):
    """A file for which the disk has no room; what was done before is kept."""


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write to, renamed to `path` when all went well and removed when not.

    A file that is not `durable` may be lost when the machine stops: for what is made again then anyway.

    Raises
    ------
    DiskFullError
        There is no room; what was written of the file is removed.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with translate_disk_full(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if durable:
                with partial.open("rb") as f:
                    os.fsync(f.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_npy_header(out: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Begin a C-ordered ``.npy`` file whose rows are appended."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)


def write_temporary(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` for a later task, whole or not at all; one that is lost is made again."""
    with atomic_write(path, durable=False) as unfinished, unfinished.open("wb") as out:
        np.save(out, array, allow_pickle=False)


@contextmanager
def translate_disk_full(path: Path, wanted: int | None = None) -> Iterator[None]:
    """Turn the error of a write to a full disk into one that says which file it was and what to do.

    Parameters
    ----------
    path : Path
        What is written.
    wanted : int, optional
        Its bytes, where they are known.

    Raises
    ------
    DiskFullError
    """
    try:
        yield
    except OSError as error:
        if not _tells_full_disk(error):
            raise
        raise disk_full_error(path, wanted) from error


def disk_full_error(path: Path, wanted: int | None = None) -> DiskFullError:
    """Return the error of a file for which the disk has no room."""
    place = path.parent
    while not place.exists():
        place = place.parent
    size = "" if wanted is None else f" of {wanted:,} bytes"
    return DiskFullError(
        f"The disk is full: {path}{size} cannot be written, {shutil.disk_usage(place).free:,} bytes are free. "
        "Free some, or move the workspace to a larger disk, and run again: what was done is kept."
    )


def _tells_full_disk(error: OSError) -> bool:
    # NumPy's tofile says in words only why it stopped.
    said = str(error)
    stopped = "Not enough free space to write" in said or ("requested and" in said and "written" in said)
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and stopped)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, read in pieces."""
    crc = 0
    with path.open("rb") as f:
        while piece := f.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return crc


@dataclass(frozen=True)
class StageRecord:
    """What the manifest says of a stage.

    Attributes
    ----------
    artifacts : dict of str to Artifact
        Those that are there.
    released : frozenset of str
        Names of those that no later stage needs, removed.
    facts : dict
        What was measured.
    seconds, at : float or None
        What it took, and when it was done, in seconds since 1970.
    """

    artifacts: dict[str, Artifact]
    released: frozenset[str]
    facts: dict[str, Any]
    seconds: float | None
    at: float | None


class Workspace:
    """A directory that holds what the stages made. Workers write artifacts, only the driver the manifest.

    Parameters
    ----------
    path : path-like
        The directory; made when missing.
    identity : dict
        What the artifacts depend on: the source's fingerprint and the parameters. None reads whatever is there.
    about : dict
        What people want to know of the run and what nothing depends on, such as the name of the source. Kept in
        place of what was there.

    Raises
    ------
    WorkspaceError
        The directory holds another run, or is not a workspace.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        known = self._load_manifest()
        if known is None:
            if identity is None:
                raise WorkspaceError(f"{self.path} holds no {MANIFEST}: give the directory of a run.")
            if contains_other_files(self.path):
                raise WorkspaceError(f"{self.path} is neither empty nor a workspace: give an empty or a new directory.")
            known = {"format": FORMAT, "identity": identity, "about": about or {}, "stages": {}}
            self.path.mkdir(parents=True, exist_ok=True)
            self._manifest: dict[str, Any] = known
            self._store_manifest()
        elif identity is not None and known["identity"] != json.loads(json.dumps(identity)):
            changed = _differences(known["identity"], json.loads(json.dumps(identity)))
            raise WorkspaceError(
                f"{self.path} belongs to another run ({changed}): give another workspace, or --overwrite it."
            )
        self._manifest = known
        if about is not None and self.about != json.loads(json.dumps(about)):
            self._manifest["about"] = about
            self._store_manifest()

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
        with atomic_write(self.path / MANIFEST) as partial:
            partial.write_text(json.dumps(self._manifest, indent=1))

    @property
    def identity(self) -> dict[str, Any]:
        """What the artifacts depend on, as given when the workspace was made."""
        return dict(self._manifest["identity"])

    @property
    def about(self) -> dict[str, Any]:
        """What is told of the run, as given when the workspace was last taken up; empty if nothing was."""
        return dict(self._manifest.get("about", {}))

    def file(self, name: str) -> Path:
        """Return the path of an artifact, refusing names that leave the workspace."""
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise WorkspaceError(f"{name!r} leads out of the workspace {self.path}.")
        return path

    def save(self, name: str, array: np.ndarray) -> Artifact:
        """Write an array as ``.npy``, whole or not at all."""
        path = self.file(name)
        with atomic_write(path) as partial, translate_disk_full(path, array.nbytes), partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        return self.describe(name)

    def load(self, name: str, mmap: bool = False) -> Any:
        """Read an array artifact, memory-mapped on request."""
        return np.load(self.file(name), mmap_mode="r" if mmap else None, allow_pickle=False)

    def describe(self, name: str) -> Artifact:
        """Measure a file that was just written."""
        path = self.file(name)
        return Artifact(name, path.stat().st_size, checksum(path))

    def record(self, stage: str, artifacts: Iterable[Artifact], seconds: float | None = None, **facts: Any) -> bool:
        """Note in the manifest that a stage is done, with its artifacts and facts (plain values).

        Parameters
        ----------
        stage : str
        artifacts : iterable of Artifact
        seconds : float, optional
            What it took.
        **facts
            Plain values.

        Returns
        -------
        bool
            Whether the stage was there before and its artifacts were other ones.
        """
        made = {a.path: {"size": a.size, "crc32": a.crc32} for a in artifacts}
        before = self._manifest["stages"].get(stage)
        entry = {"artifacts": made, "facts": facts, "seconds": seconds, "at": time.time()}
        self._manifest["stages"] = self._manifest["stages"] | {stage: entry}
        self._store_manifest()
        return before is not None and before["artifacts"] | before.get("released", {}) != made

    def stages(self) -> dict[str, StageRecord]:
        """Return what is recorded of every stage, without a look at the files."""
        return {
            stage: StageRecord(
                {n: Artifact(n, a["size"], a["crc32"]) for n, a in entry["artifacts"].items()},
                frozenset(entry.get("released", {})),
                dict(entry["facts"]),
                entry.get("seconds"),
                entry.get("at"),
            )
            for stage, entry in self._manifest["stages"].items()
        }

    def recorded_facts(self, stage: str) -> dict[str, Any] | None:
        """Return the facts of a recorded stage without a look at its artifacts, else None."""
        entry = self._manifest["stages"].get(stage)
        return None if entry is None else dict(entry["facts"])

    def facts(self, stage: str) -> dict[str, Any] | None:
        """Return the facts of a finished stage whose artifacts are all there and undamaged, else None."""
        return None if any(self.damage(stage)) else self.recorded_facts(stage)

    def damage(self, stage: str, sizes_only: bool = False) -> Iterator[str]:
        """Yield what is wrong with the artifacts of a recorded stage: their names and why.

        Parameters
        ----------
        stage : str
        sizes_only : bool
            Do not read the files.
        """
        entry = self._manifest["stages"].get(stage, {"artifacts": {}})
        for name, known in entry["artifacts"].items():
            path = self.file(name)
            try:
                size = path.stat().st_size
                if size != known["size"]:
                    yield f"{name} has {size:,} bytes instead of {known['size']:,}"
                elif not sizes_only and checksum(path) != known["crc32"]:
                    yield f"{name} has another content than was written"
            except FileNotFoundError:
                yield f"{name} is missing"
            except OSError as error:
                yield f"{name} cannot be read ({error.strerror})"

    def drop_stage(self, stage: str) -> None:
        """Remove a stage and its artifacts, manifest first so that no entry is left without its files."""
        entry = self._manifest["stages"].pop(stage, None)
        if entry is None:
            return
        self._store_manifest()
        for name in entry["artifacts"]:
            self.file(name).unlink(missing_ok=True)

    def release(self, names: Iterable[str]) -> None:
        """Remove artifacts that no stage needs any more, manifest first: their stages stay done."""
        wanted = set(names)
        found = []
        for entry in self._manifest["stages"].values():
            gone = {name: known for name, known in entry["artifacts"].items() if name in wanted}
            if gone:
                entry["released"] = entry.get("released", {}) | gone
                entry["artifacts"] = {n: k for n, k in entry["artifacts"].items() if n not in gone}
                found += list(gone)
        if found:
            self._store_manifest()
        for name in found:
            self.file(name).unlink(missing_ok=True)

    def clean(self, keep: Iterable[str] = ()) -> None:
        """Remove what is in the folders of artifacts and not in the manifest: left by a run that was killed.

        Parameters
        ----------
        keep : iterable of str
            Folders to leave alone.
        """
        known = {self.file(name) for entry in self._manifest["stages"].values() for name in entry["artifacts"]}
        for folder in set(FOLDERS) - set(keep):
            for path in sorted(self.file(folder).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif path not in known:
                    path.unlink(missing_ok=True)
        for path in self.path.glob(".*.partial"):
            path.unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Remove a folder of artifacts that no stage needs any more."""
        shutil.rmtree(self.file(folder), ignore_errors=True)


def contains_other_files(path: Path) -> bool:
    """Return whether a directory has files, and not those of a workspace, nor of one that was just begun."""
    if not path.exists() or (path / MANIFEST).exists():
        return False
    return any(p.name != LOCK and not p.name.startswith(f".{MANIFEST}.") for p in path.iterdir())


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raise a plain TypeError or KeyError for a manifest that this version has not written."""
    parts = [manifest["identity"], manifest["stages"], manifest.get("about", {})]
    for stage in manifest["stages"].values() if isinstance(manifest["stages"], dict) else ():
        parts += [stage["facts"], stage["artifacts"], stage.get("released", {})]
        for known in (*stage["artifacts"].values(), *stage.get("released", {}).values()):
            if not all(isinstance(known[figure], int) for figure in ("size", "crc32")):
                raise TypeError("a size or checksum is no whole number")
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
