"""The manifest of a workspace: which run it belongs to, and the artifacts and results of its finished stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_dask.errors import WorkspaceError
from nomad_dask.storage.atomic import atomic_write

FORMAT = 1
MANIFEST = "manifest.json"
# The record of the last checkpoint of the layout, from which an unfinished layout resumes.
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Artifact:
    """One file of the workspace, as recorded in the manifest.

    Attributes
    ----------
    path : str
        Relative to the workspace, with forward slashes.
    size : int
        In bytes.
    crc32 : int
        Checksum of the content.
    """

    path: str
    size: int
    crc32: int


@dataclass(frozen=True)
class StageRecord:
    """A finished stage, as recorded in the manifest.

    Attributes
    ----------
    artifacts : dict of str to Artifact
        Artifacts on disk, by path.
    released : frozenset of str
        Paths of artifacts that were pruned because no later stage reads them.
    facts : dict
        Measurements of the stage.
    seconds : float or None
        Wall time of the stage.
    at : float or None
        Time at which the stage finished, in seconds since 1970.
    """

    artifacts: dict[str, Artifact]
    released: frozenset[str]
    facts: dict[str, Any]
    seconds: float | None
    at: float | None

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> StageRecord:
        """Return the record of an entry under ``stages`` in the manifest."""
        return cls(
            {path: Artifact(path, a["size"], a["crc32"]) for path, a in entry["artifacts"].items()},
            frozenset(entry.get("released", {})),
            dict(entry["facts"]),
            entry.get("seconds"),
            entry.get("at"),
        )


def read_manifest(workspace: Path) -> dict[str, Any] | None:
    """Return the validated manifest of a workspace, or None if it has none.

    Raises
    ------
    WorkspaceError
        The manifest is damaged, or of another format version.
    """
    file = workspace / MANIFEST
    if not file.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        version = manifest["format"]
        if version == FORMAT:
            _validate(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{file} is damaged ({error}): give another workspace.") from error
    if version != FORMAT:
        raise WorkspaceError(f"{file} has format {version!r}, this version reads {FORMAT}: give another workspace.")
    return manifest


def write_manifest(workspace: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest of a workspace."""
    with atomic_write(workspace / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1))


def as_json(value: Any) -> Any:
    """Return a value as it reads back from JSON, where tuples are lists."""
    return json.loads(json.dumps(value))


def describe_differences(recorded: dict[str, Any], requested: dict[str, Any], prefix: str = "") -> str:
    """Return the keys, also of nested mappings, whose values differ, with both values."""
    differences = []
    for key in sorted(recorded.keys() | requested.keys()):
        a, b = recorded.get(key), requested.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            differences.append(describe_differences(a, b, f"{key}."))
        elif a != b:
            differences.append(f"{prefix}{key}: {a!r} in the workspace, {b!r} requested")
    return "; ".join(differences)


def _validate(manifest: dict[str, Any]) -> None:
    """Raise a KeyError or TypeError if the manifest lacks a field or has one of another type."""
    stages = manifest["stages"]
    mappings = [manifest["identity"], stages, manifest.get("about", {})]
    for stage in stages.values() if isinstance(stages, dict) else ():
        mappings += [stage["facts"], stage["artifacts"], stage.get("released", {})]
        for artifact in (*stage["artifacts"].values(), *stage.get("released", {}).values()):
            if not all(isinstance(artifact[field], int) for field in ("size", "crc32")):
                raise TypeError("a size or checksum is not an integer")
    if not all(isinstance(mapping, dict) for mapping in mappings):
        raise TypeError("a section is not a mapping")
