"""Writes maps, and reads sites back with nothing of what wrote them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCRIPT = re.compile(rb'nomad\("([^"\\]*)","([A-Za-z0-9+/=]*)"\)\n')


def write_map(path: Path, x: Any, y: Any, *, row_group_size: int | None = None, **columns: Any) -> Path:
    """Write a Parquet file with positions and other columns."""
    pq.write_table(pa.table({"x": x, "y": y, **columns}), path, row_group_size=row_group_size)
    return path


def part(site: Path, name: str) -> bytes:
    found = SCRIPT.fullmatch((site / f"{name}.js").read_bytes())
    assert found, f"{name}.js is no part"
    assert found[1].decode() == name
    return base64.b64decode(found[2], validate=True)


def table(site: Path, name: str) -> pa.Table:
    return pa.ipc.open_stream(part(site, name)).read_all()


def about(site: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(part(site, "site").decode())
    return description


def index(site: Path) -> dict[tuple[int, int, int], int]:
    rows = table(site, "index").to_pydict()
    return dict(zip(zip(rows["z"], rows["x"], rows["y"], strict=True), rows["n"], strict=True))


def tiles(site: Path) -> dict[tuple[int, int, int], pa.Table]:
    return {(z, x, y): table(site, f"tiles/{z}/{x}-{y}") for z, x, y in index(site)}


def texts(site: Path) -> pa.Table:
    k, parts = 0, []
    while (site / "text" / f"{k}.js").exists():
        parts.append(table(site, f"text/{k}"))
        k += 1
    return pa.concat_tables(parts)


def files(site: Path) -> dict[str, bytes]:
    return {p.relative_to(site).as_posix(): p.read_bytes() for p in sorted(site.rglob("*")) if p.is_file()}
