"""A file with one JSON object a line: several processes may append to it, and a kill costs at most the last line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line, which is on the disk when this returns."""
    line = json.dumps(record).encode() + b"\n"
    with path.open("ab+") as out:
        if out.tell() and _last_byte(path) != b"\n":
            line = b"\n" + line  # the last writer was killed in the middle of its line
        out.write(line)
        out.flush()
        os.fsync(out.fileno())


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the records of some files in order, without lines that a kill cut off."""
    records = []
    for path in paths:
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
