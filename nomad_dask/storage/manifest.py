"""The manifest of a workspace: which run it belongs to, and the artifacts and results of its finished stages."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_dask.errors import NomadWarning, WorkspaceError
from nomad_dask.storage.atomic import atomic_write, link_over
from nomad_dask.storage.manifest_values import check_manifest
from nomad_dask.storage.regular_files import read_regular

FORMAT = 2
MANIFEST = "manifest.json"
PREVIOUS_MANIFEST = "manifest.previous.json"
# The record of the last checkpoint of the layout, from which an unfinished layout resumes.
CHECKPOINT = "checkpoint"
_MAX_BYTES = 1 << 28
_REMEDY = "give another workspace, or replace this one with --overwrite"


class DamagedManifestError(WorkspaceError):
    """A manifest cannot be read, and neither can the one before."""


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

    If it is damaged or missing, a warning is shown and the one before is returned: its stages are checked as always,
    and those whose artifacts were changed or removed since run again.

    Raises
    ------
    DamagedManifestError
        The manifest and the one before are damaged or no regular files.
    WorkspaceError
        The format version is another one.
    """
    try:
        manifest = _read(workspace / MANIFEST)
        problem = f"{workspace / MANIFEST} is missing"
    except DamagedManifestError as error:
        manifest, problem = None, str(error)
    if manifest is not None:
        return manifest
    try:
        previous = _read(workspace / PREVIOUS_MANIFEST)
    except WorkspaceError:
        previous = None
    if previous is not None:
        warnings.warn(f"{problem}. The state before it is used instead.", NomadWarning, stacklevel=2)
    elif os.path.lexists(workspace / MANIFEST):
        raise DamagedManifestError(f"{problem}: {_REMEDY}.")
    return previous


def _read(file: Path) -> dict[str, Any] | None:
    content = _read_bytes(file)
    return None if content is None else _parse(file, content)


def _read_bytes(file: Path) -> bytes | None:
    try:
        return read_regular(file, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedManifestError(f"{file} cannot be read ({error})") from error


def _parse(file: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(content)
        version = manifest["format"]
        if version == FORMAT:
            if manifest.pop("checksum") != content_checksum(manifest):
                raise ValueError("its content does not match its checksum")
            check_manifest(manifest, CHECKPOINT)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedManifestError(f"{file} is damaged ({_describe(error)})") from error
    if version != FORMAT:
        raise WorkspaceError(f"{file} has format {version!r:.40}, this version reads {FORMAT}: {_REMEDY}.")
    return manifest


def write_manifest(workspace: Path, manifest: dict[str, Any], before: bytes | None = None) -> bytes:
    """Replace the manifest of a workspace, and keep the one before; a checksum of the content is added.

    Parameters
    ----------
    workspace : Path
    manifest : dict
    before : bytes, optional
        What this function has returned for the workspace; if the file still has this content, it is not checked.

    Returns
    -------
    bytes
        Content of the file.
    """
    content = as_json(manifest)
    content["checksum"] = content_checksum(content)
    # On one line: to indent it, Python would encode it ten times more slowly.
    encoded = json.dumps(content).encode()
    file = workspace / MANIFEST
    with suppress(WorkspaceError):  # one that cannot be read is not kept
        found = _read_bytes(file)
        if found is not None and (found == before or _parse(file, found)):
            link_over(file, workspace / PREVIOUS_MANIFEST)
    with atomic_write(file) as partial:
        partial.write_bytes(encoded)
    return encoded


def content_checksum(content: dict[str, Any]) -> str:
    """Return the checksum of the content of a manifest, whatever the order of its keys and its white space."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _describe(error: Exception) -> str:
    """Return what is wrong with a manifest, in words."""
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


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
