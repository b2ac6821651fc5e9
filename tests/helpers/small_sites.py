"""A small writer of sites after the format, in plain loops, so that the page is tested without our own writer."""

from __future__ import annotations

import json
import re
import unicodedata
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

DIST = Path(__file__).parents[2] / "nomad_dask" / "site" / "web"
STEPS = 65536
NONE = "(none)"


@dataclass
class Made:
    """A site on disk and what the page should show of it.

    Attributes
    ----------
    folder : Path
    extent : tuple of float
        Left, bottom and side.
    seen : ndarray (n, 2)
        Where the tiles say that each row is.
    tile : list of str
        Name of the tile of each row.
    """

    folder: Path
    extent: tuple[float, float, float]
    seen: np.ndarray
    tile: list[str] = field(default_factory=list)


def words_of(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.findall(r"[^\W_]+", folded)


def fnv(word: str) -> int:
    value = 2166136261
    for byte in word.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def write_part(folder: Path, name: str, content: bytes) -> None:
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'nomad({json.dumps(name)},"{b64encode(content).decode()}")\n')


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    out = BytesIO()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    write_part(folder, name, out.getvalue())


def write_site(
    folder: Path,
    xy: np.ndarray,
    columns: dict[str, Any],
    *,
    title: str = "A map",
    hover: list[str] | None = None,
    tile_rows: int = 500,
    text_rows: int = 64,
    search_parts: int = 4,
    most_hits: int = 10_000,
    seed: int = 0,
) -> Made:
    """Write a site: columns of text with few values become categories, numbers numbers, the rest text."""
    copytree(DIST, folder, dirs_exist_ok=True)
    n = len(xy)
    low = xy.min(axis=0)
    side = float((xy.max(axis=0) - low).max()) * (1 + 1e-9) or 1.0
    left, bottom = (float(v) for v in low)
    hover = list(columns) if hover is None else hover
    columns_described, codes = [], {}
    for name, values in columns.items():
        column, code = _encoded(name, values)
        columns_described.append(column)
        if code is not None:
            codes[name] = code

    seen, tiles, names = np.empty((n, 2)), [], [""] * n
    order = np.random.default_rng(seed).permutation(n)
    level = [(0, 0, 0, order)]
    while level:
        below = []
        for z, tx, ty, rows in level:
            mine, rest = (rows[:tile_rows], rows[tile_rows:]) if z < 23 else (rows, rows[:0])
            step = side / 2**z
            origin = np.array([left + tx * step, bottom + ty * step])
            q = np.clip((xy[mine] - origin) / step * STEPS, 0, STEPS - 1).astype(np.uint16)
            seen[mine] = origin + (q + 0.5) / STEPS * step
            arrays = {"row": mine.astype(np.uint32), "x": q[:, 0], "y": q[:, 1]}
            name = f"tiles/{z}/{tx}-{ty}"
            write_table(folder, name, pa.table(arrays | {f"c.{c}": code[mine] for c, code in codes.items()}))
            tiles.append((z, tx, ty, len(mine)))
            for row in mine:
                names[row] = name
            inner = ((xy[rest] - origin) / step >= 0.5).astype(int)
            for dy in (0, 1):
                for dx in (0, 1):
                    quad = rest[(inner[:, 0] == dx) & (inner[:, 1] == dy)]
                    if len(quad):
                        below.append((z + 1, 2 * tx + dx, 2 * ty + dy, quad))
        level = below
    kinds = (np.uint8, np.uint32, np.uint32, np.uint32)
    index = {k: np.array([t[i] for t in tiles], kinds[i]) for i, k in enumerate("zxyn")}
    write_table(folder, "index", pa.table(index))

    texts = {name: [None if v is None else str(v) for v in columns[name]] for name in hover}
    for k, start in enumerate(range(0, n, text_rows)):
        stop = min(n, start + text_rows)
        part = {"@x": xy[start:stop, 0].astype(np.float32), "@y": xy[start:stop, 1].astype(np.float32)}
        part |= {name: pa.array(texts[name][start:stop], pa.string()) for name in hover}
        write_table(folder, f"text/{k}", pa.table(part))
    searched: list[str] | None = [c["name"] for c in columns_described if c["kind"] != "number" and c["name"] in hover]
    if searched and search_parts:
        _write_search(folder, [texts[name] for name in searched], order, search_parts, most_hits)
    _write_overview(folder, (xy - low) / side)
    site = {
        "version": 1,
        "title": title,
        "n": n,
        "extent": [left, bottom, left + side, bottom + side],
        "tile_rows": tile_rows,
        "steps": STEPS,
        "depth": 1 + max(t[0] for t in tiles),
        "columns": columns_described,
        "hover": hover,
        "text_rows": text_rows,
        "search": {"columns": searched, "parts": search_parts} if searched and search_parts else None,
        "overview": [{"name": f"overview/{k}.png", "pixels": 512 << k} for k in range(2)],
        "tiles": "index",
    }
    write_part(folder, "site", json.dumps(site).encode())
    return Made(folder, (left, bottom, side), seen, names)


def _encoded(name: str, values: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        column = {"name": name, "kind": "number", "in_tiles": True}
        return column | {"min": float(np.nanmin(values)), "max": float(np.nanmax(values))}, values.astype(np.float32)
    known, counts = np.unique([v for v in values if v is not None], return_counts=True)
    if len(known) > min(40, len(values) / 4):
        return {"name": name, "kind": "text", "in_tiles": False}, None
    ranked = [str(known[i]) for i in np.argsort(-counts, kind="stable")]
    categories: list[dict[str, Any]] = [{"label": v, "n": int(counts[known == v][0])} for v in ranked]
    missing = sum(v is None for v in values)
    if missing:
        categories.append({"label": NONE, "n": missing, "other": True})
    code = np.array([len(ranked) if v is None else ranked.index(str(v)) for v in values], np.uint8)
    return {"name": name, "kind": "category", "in_tiles": True, "categories": categories}, code


def _write_search(folder: Path, texts: list[list[Any]], order: np.ndarray, parts: int, most: int) -> None:
    found: dict[str, list[int]] = {}
    for row in order:
        for word in {w for column in texts for w in words_of(column[row] or "")}:
            found.setdefault(word, []).append(int(row))
    for h in range(parts):
        words = sorted(w for w in found if fnv(w) % parts == h)
        table = {
            "word": pa.array(words, pa.string()),
            "rows": pa.array([found[w][:most] for w in words], pa.list_(pa.uint32())),
            "n": pa.array([len(found[w]) for w in words], pa.uint32()),
        }
        write_table(folder, f"search/{h}", pa.table(table))


def _write_overview(folder: Path, unit: np.ndarray) -> None:
    (folder / "overview").mkdir(exist_ok=True)
    for k in range(2):
        size = 512 << k
        at = np.clip(unit * size, 0, size - 1).astype(int)
        counts = np.zeros((size, size))
        np.add.at(counts, (size - 1 - at[:, 1], at[:, 0]), 1)
        alpha = np.where(counts, 0.35 + 0.65 * np.minimum(1, np.log1p(counts) / np.log(8)), 0)
        pixels = np.full((size, size, 4), (91, 140, 201, 0), np.uint8)
        pixels[..., 3] = (alpha * 255).round()
        Image.fromarray(pixels).save(folder / "overview" / f"{k}.png")


# The site that most tests look at.
N = 12_000
SECTIONS = ["astronomy", "botany", "chemistry", "dance"]
SEARCHED = {"needle": 1234, "straße": 77, "ΣΊΣΥΦΟΣ": 4321, "ﬁligree": 9000}


def rows() -> tuple[np.ndarray, dict[str, Any]]:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 4, N)
    xy = (np.array([[0, 0], [9, 2], [3, 8], [10, 10]])[kind] + rng.normal(size=(N, 2))).astype(np.float32)
    words = np.array(["common", "rare", "plain", "quiet", "loud", "other"])
    text = [" ".join(words[rng.integers(0, 6, 5)]) for _ in range(N)]
    for word, row in SEARCHED.items():
        text[row] = f"{word} among others"
    title = [f"Title {row}" for row in range(N)]
    year = rng.normal(1990, 10, N)
    year[::50] = np.nan
    return xy, {
        "title": title,
        "section": [SECTIONS[k] if row % 40 else None for row, k in enumerate(kind)],
        "year": year,
        "text": text,
    }


XY, COLUMNS = rows()
