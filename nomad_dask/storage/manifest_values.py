"""Types and ranges of the values in a manifest."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

_MAX_DEPTH = 8
_MAX_SIZE = 1 << 62
_MAX_CRC32 = (1 << 32) - 1
_MAX_EPOCHS = 1 << 31


def check_manifest(manifest: dict[str, Any], checkpoint: str) -> None:
    """Check the types and ranges of the values of a manifest.

    Parameters
    ----------
    manifest : dict
    checkpoint : str
        Name of the record of the last checkpoint of the layout.

    Raises
    ------
    KeyError
        A field is missing.
    TypeError, ValueError
        A field has a value of another type, or out of range.
    """
    _check_json(_mapping(manifest["identity"], "identity"), "identity")
    _check_json(_mapping(manifest.get("about", {}), "about"), "about")
    delivering = manifest.get("delivering")
    if delivering is not None and not isinstance(delivering, str):
        raise TypeError("delivering is not a path")
    for name, stage in _mapping(manifest["stages"], "stages").items():
        where = f"stages.{name}"
        _mapping(stage, where)
        for kind, files in (("artifacts", stage["artifacts"]), ("released", stage.get("released", {}))):
            for path, artifact in _mapping(files, f"{where}.{kind}").items():
                _check_artifact(path, _mapping(artifact, f"{where}.{kind}.{path}"))
        for field in ("seconds", "at"):
            if stage.get(field) is not None:
                _check_number(stage[field], f"{where}.{field}")
        facts = _mapping(stage["facts"], f"{where}.facts")
        _check_json(facts, f"{where}.facts")
        if name == checkpoint:
            _check_checkpoint(facts, f"{where}.facts", manifest["identity"].get("n_shards"))


def _check_artifact(path: str, artifact: dict[str, Any]) -> None:
    """Check the path, size and checksum of an artifact."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} leads out of the workspace")
    _check_whole_number(artifact["size"], f"the size of {path}", 0, _MAX_SIZE)
    _check_whole_number(artifact["crc32"], f"the checksum of {path}", 0, _MAX_CRC32)


def _check_checkpoint(facts: dict[str, Any], where: str, n_shards: Any) -> None:
    """Check the epoch, the partition sum of every shard and the loss of a checkpoint."""
    _check_whole_number(facts["epoch"], f"{where}.epoch", 0, _MAX_EPOCHS)
    if not isinstance(facts["z"], list) or n_shards not in (None, len(facts["z"])):
        raise TypeError(f"{where}.z is not a list of one number for each shard")
    for value in facts["z"]:
        if value is not None:
            _check_number(value, f"{where}.z")
    if facts["loss"] is not None and not isinstance(facts["loss"], int | float):
        raise TypeError(f"{where}.loss is not a number")


def _check_json(value: Any, where: str, depth: int = 0) -> None:
    """Check that a value is not nested more deeply than any that is recorded."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where} is nested too deeply")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _check_json(part, where, depth + 1)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{where} is not a mapping")
    return value


def _check_whole_number(value: Any, where: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where} is not a whole number")
    if not low <= value <= high:
        raise ValueError(f"{where} is {value!r:.40}, {low} to {high} are possible")


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{where} is {value!r:.40}, a finite number is possible")
