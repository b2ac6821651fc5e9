"""The workspace: a directory with the artifacts of a run, each written atomically and recorded in the manifest."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nomad_dask.errors import WorkspaceError
from nomad_dask.storage.artifact_folder import ArtifactFolder
from nomad_dask.storage.lock import LOCK
from nomad_dask.storage.manifest import (
    FORMAT,
    MANIFEST,
    PREVIOUS_MANIFEST,
    Artifact,
    StageRecord,
    as_json,
    describe_differences,
    read_manifest,
    write_manifest,
)
from nomad_dask.storage.removal import remove_directory, remove_garbage


class Workspace(ArtifactFolder):
    """A directory with the artifacts of a run, and its manifest, which only the client writes.

    Parameters
    ----------
    path : path-like
        The directory; created if missing.
    identity : dict, optional
        Everything that the artifacts depend on: fingerprint and shape of the source, parameters, number of shards.
        None opens an existing workspace of any run.
    about : dict, optional
        Information for people that no artifact depends on, such as the name of the source. Replaces the
        recorded one.

    Raises
    ------
    WorkspaceError
        The directory belongs to another run, or is not a workspace.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path)
        self._written: bytes | None = None
        manifest = read_manifest(self.path)
        if manifest is None:
            manifest = self._create(identity, about)
        elif identity is not None and manifest["identity"] != as_json(identity):
            differences = describe_differences(manifest["identity"], as_json(identity))
            raise WorkspaceError(
                f"{self.path} belongs to another run ({differences}): give another workspace, or pass --overwrite."
            )
        self._manifest: dict[str, Any] = manifest
        if about is not None and self.about != as_json(about):
            self._manifest["about"] = about
            self._write_manifest()

    def _create(self, identity: dict[str, Any] | None, about: dict[str, Any] | None) -> dict[str, Any]:
        """Create the directory with an empty manifest, and return the manifest."""
        if identity is None:
            raise WorkspaceError(f"{self.path} holds no {MANIFEST}: give the directory of a run.")
        if contains_other_files(self.path):
            raise WorkspaceError(f"{self.path} is neither empty nor a workspace: give an empty or a new directory.")
        manifest = {"format": FORMAT, "identity": identity, "about": about or {}, "stages": {}}
        self.path.mkdir(parents=True, exist_ok=True)
        self._written = write_manifest(self.path, manifest)
        return manifest

    @classmethod
    def replace(cls, path: Path, identity: dict[str, Any], about: dict[str, Any] | None = None) -> Workspace:
        """Make a workspace that of another run, by one write of the manifest; `clean` removes the artifacts."""
        write_manifest(path, {"format": FORMAT, "identity": identity, "about": about or {}, "stages": {}})
        return cls(path, identity, about)

    def _write_manifest(self) -> None:
        self._written = write_manifest(self.path, self._manifest, self._written)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the artifacts depend on, as given when the workspace was created."""
        return dict(self._manifest["identity"])

    @property
    def delivering(self) -> str | None:
        """The output that the run was writing when it ended; None before that, and when all was written."""
        return self._manifest.get("delivering")

    def set_delivering(self, output: Path | None) -> None:
        """Record the output that is being written from the finished stages, or None when all is written."""
        self._manifest["delivering"] = None if output is None else str(output.absolute())
        self._write_manifest()

    @property
    def about(self) -> dict[str, Any]:
        """Information about the run, as given when the workspace was last opened for it; empty if none was given."""
        return dict(self._manifest.get("about", {}))

    def record(
        self,
        stage: str,
        artifacts: Iterable[Artifact],
        seconds: float | None = None,
        later_stages: Sequence[str] = (),
        **facts: Any,
    ) -> bool:
        """Record a finished stage in the manifest.

        Parameters
        ----------
        stage : str
        artifacts : iterable of Artifact
        seconds : float, optional
            Wall time of the stage.
        later_stages : sequence of str
            Stages whose artifacts were made from those of this stage. If these differ from the recorded ones, the
            later stages are dropped in the same write of the manifest, which so never mixes artifacts of two runs.
        **facts
            Measurements: values that JSON can represent.

        Returns
        -------
        bool
            Whether the stage was recorded before with different artifacts.
        """
        new = {a.path: {"size": a.size, "crc32": a.crc32} for a in artifacts}
        previous = self._manifest["stages"].get(stage)
        is_changed = previous is not None and previous["artifacts"] | previous.get("released", {}) != new
        entry = {"artifacts": new, "facts": facts, "seconds": seconds, "at": time.time()}
        before = self._manifest["stages"]
        dropped = [name for name in later_stages if is_changed and name in before]
        self._manifest["stages"] = {name: e for name, e in before.items() if name not in dropped} | {stage: entry}
        self._write_manifest()
        self._unlink(name for later in dropped for name in before[later]["artifacts"])
        return is_changed

    def stages(self) -> dict[str, StageRecord]:
        """Return the record of every finished stage; the files are not checked."""
        return {stage: StageRecord.from_json(entry) for stage, entry in self._manifest["stages"].items()}

    def recorded_facts(self, stage: str) -> dict[str, Any] | None:
        """Return the measurements of a finished stage, or None; the files are not checked."""
        entry = self._manifest["stages"].get(stage)
        return None if entry is None else dict(entry["facts"])

    def facts(self, stage: str) -> dict[str, Any] | None:
        """Return the measurements of a finished stage, or None if one of its artifacts is missing or damaged."""
        return None if any(self.damage(stage)) else self.recorded_facts(stage)

    def damage(self, stage: str, sizes_only: bool = False) -> Iterator[str]:
        """Yield a description of every missing or damaged artifact of a recorded stage.

        Parameters
        ----------
        stage : str
        sizes_only : bool
            Compare the sizes of the files only, not their checksums.
        """
        entry = self._manifest["stages"].get(stage, {"artifacts": {}})
        for name, recorded in entry["artifacts"].items():
            problem = self.damage_of(Artifact(name, recorded["size"], recorded["crc32"]), sizes_only)
            if problem is not None:
                yield problem

    def drop_stage(self, stage: str) -> None:
        """Remove a stage and its artifacts; the manifest first, so that no entry lacks its files."""
        entry = self._manifest["stages"].pop(stage, None)
        if entry is None:
            return
        self._write_manifest()
        self._unlink(entry["artifacts"])

    def prune(self, names: Iterable[str]) -> None:
        """Remove artifacts that no pending stage reads; the manifest first. Their stages stay finished."""
        requested = set(names)
        pruned = []
        for entry in self._manifest["stages"].values():
            released = {name: a for name, a in entry["artifacts"].items() if name in requested}
            if released:
                entry["released"] = entry.get("released", {}) | released
                entry["artifacts"] = {name: a for name, a in entry["artifacts"].items() if name not in released}
                pruned += list(released)
        if pruned:
            self._write_manifest()
        self._unlink(pruned)

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            self.file(name).unlink(missing_ok=True)

    def clean(self, folders: Iterable[str]) -> None:
        """Remove every file of the given folders that is not in the manifest: leftovers of a killed run."""
        recorded = {self.file(name) for entry in self._manifest["stages"].values() for name in entry["artifacts"]}
        for folder in folders:
            if self.file(folder).exists() and not self.file(folder).is_dir():
                self.file(folder).unlink()
            for path in sorted(self.file(folder).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif path not in recorded or not stat.S_ISREG(path.lstat().st_mode):
                    path.unlink(missing_ok=True)
        for path in self.path.glob(".*.partial"):
            path.unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Remove a folder of artifacts, and what is left of it from a removal that was killed."""
        path = self.file(folder)
        remove_garbage(path)
        if path.exists():
            remove_directory(path)


def contains_other_files(path: Path) -> bool:
    """Return whether a directory has files that belong to no workspace, finished or just being created."""
    if not path.exists() or (path / MANIFEST).exists():
        return False
    return any(p.name != LOCK and not p.name.startswith(f".{MANIFEST}.") for p in path.iterdir())


def has_only_own_files(path: Path) -> bool:
    """Return whether a directory holds nothing but what a workspace may hold: manifests, arrays and hidden files."""
    files = (p for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    return all(p.name in (MANIFEST, PREVIOUS_MANIFEST) or p.suffix == ".npy" or p.name[0] == "." for p in files)
