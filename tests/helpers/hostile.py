"""Hostile command lines: damaged files of every format, special files, and values that no option takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from nomad_dask.cli import cli

N_ROWS, N_DIMS = 40, 4
COMMANDS = ("fit", "plan", "score", "plot", "export", "status")
# They would start processes or wait for a server: tests of their own try these.
_LEFT_OUT = {"n_workers", "scheduler", "scheduler_file", "help", "verbose"}
_OUTPUTS = {"fit": "out.parquet", "plot": "out.png", "export": "site"}
_JUNK = [
    "", " ", "0", "-1", "1", "2", "3", "7", "0.5", "1e3", "nan", "inf", "-inf", "1e400", "0x10", "99999999999999999999",
    "x", "y", "z", "cell", "text", "vector", "label", "nested", "mixed", "x,y", "x,x", "text,text", ",", "=", "a=b",
    "n_epochs=2", "cell_size=5", "metric=cosine", "n_components=3", "n_neighbors=3", "n_epochs=x", "no_such=1",
    "300x200", "1x1", "0x0", "100000x100000", "10,15", "5,5000", "0,1", "log", "euclidean", "cosine", "fast", "light",
    "cpu", "auto", "gpu", "1MB", "1GB", "-5GB", "1e9", "١", "é", "\U0001f600", "a\nb", "../x", "a" * 250, "a" * 5000,
]  # fmt: skip


def _text_column() -> list[str]:
    return [f"word{i % 5} text {i}" for i in range(N_ROWS)]


def make_files(folder: Path) -> dict[str, bytes]:
    """Return the content of a small sound file of each kind, by name."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N_ROWS, N_DIMS)).astype(np.float32)
    np.save(folder / "x.npy", vectors)
    table = pa.table({"vector": list(vectors), "text": _text_column(), "label": np.arange(N_ROWS) % 3})
    pq.write_table(table, folder / "x.parquet", row_group_size=16)
    pd.DataFrame(vectors, columns=list("abcd"), index=rng.permutation(N_ROWS)).to_parquet(folder / "columns.parquet")
    nested = [{"a": [i]} for i in range(N_ROWS)]
    places = {"x": rng.normal(size=N_ROWS), "y": rng.normal(size=N_ROWS), "cell": np.zeros(N_ROWS, np.int32)}
    pq.write_table(
        pa.table(places | {"text": _text_column(), "label": np.arange(N_ROWS) % 3, "nested": nested}),
        folder / "map.parquet",
    )
    strange = places | {"x": rng.choice([np.nan, np.inf, 2.0**62, 0.0], N_ROWS), "text": [None] * N_ROWS}
    pq.write_table(pa.table(strange), folder / "strange.parquet")
    with_metadata = pa.table(places).replace_schema_metadata({b"nomad": b'{"params": 3', b"nomad_dask": b"[]"})
    pq.write_table(with_metadata, folder / "foreign.parquet")
    pd.DataFrame(places).to_csv(folder / "map.csv", index=False)
    (folder / "empty").write_bytes(b"")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass(frozen=True)
class Node:
    """Something on the disk under a name: the bytes of a file, or a kind of special file."""

    name: str
    content: bytes | None = None
    kind: str = "file"

    def create(self, folder: Path) -> None:
        """Create it in a folder."""
        path = folder / self.name
        if self.kind == "file":
            path.write_bytes(self.content or b"")
        elif self.kind == "fifo":
            os.mkfifo(path)
        elif self.kind == "loop":
            path.symlink_to(self.name)
        elif self.kind == "dangling":
            path.symlink_to("nothing here")
        elif self.kind == "folder":
            path.mkdir()
            (path / "part.parquet").write_bytes(self.content or b"")
        elif self.kind == "device":
            path.symlink_to("/dev/zero")


def _mutated(content: bytes, draw: Callable[[Any], Any]) -> bytes:
    """Return content with a few changes: bytes flipped, a range zeroed, removed or repeated, or the end cut off."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 3]))):
        if not content:
            return content
        at = draw(st.integers(0, len(content) - 1))
        stop = min(len(content), at + draw(st.sampled_from([1, 1, 4, 64, 100_000])))
        how = draw(st.sampled_from(["flip", "zero", "remove", "repeat", "cut"]))
        if how == "flip":
            content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
        elif how == "zero":
            content = content[:at] + bytes(stop - at) + content[stop:]
        elif how == "remove":
            content = content[:at] + content[stop:]
        elif how == "repeat":
            content = content[:stop] + content[at:]
        else:
            content = content[:at]
    return content


@st.composite
def nodes(draw: Callable[[Any], Any], files: dict[str, bytes]) -> Node:
    """Draw a file of one kind under a name of this or another kind, or a special file."""
    name = draw(st.sampled_from(sorted(files)))
    content = _mutated(files[name], draw)
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(["a.npy", "a.parquet", "a.NPY", "a.feather", "a.zarr", "a", "a.png"]))
    kind = draw(st.sampled_from(["file"] * 12 + ["loop", "dangling", "folder"]))
    return Node(name, content, kind)


def _value(parameter: click.Parameter, names: list[str]) -> st.SearchStrategy[str]:
    values = st.sampled_from(_JUNK + names)
    if isinstance(parameter.type, click.Choice):
        return st.one_of(st.sampled_from([str(choice) for choice in parameter.type.choices]), values)
    return st.one_of(values, st.sampled_from(names)) if isinstance(parameter.type, click.Path) else values


def _options(draw: Callable[[Any], Any], command: click.Command) -> list[click.Option]:
    """Draw the options to give: those that are required, and up to three others."""
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in _LEFT_OUT]
    optional = [option for option in options if not option.required]
    chosen = draw(st.lists(st.sampled_from(optional), max_size=draw(st.integers(0, 3)), unique=True))
    return [option for option in options if option.required] + chosen


@st.composite
def command_lines(draw: Callable[[Any], Any], files: dict[str, bytes]) -> tuple[list[Node], list[str]]:
    """Draw what is on the disk, and a command with its arguments."""
    created = {node.name: node for node in draw(st.lists(nodes(files), min_size=1, max_size=3))}
    names = [*created, *_OUTPUTS.values(), "out.svg", "out.csv", "work", ".", "missing.npy"]
    name = draw(st.sampled_from(COMMANDS))
    command = cli.commands[name]
    arguments = [name]

    def value(parameter: click.Parameter, usual: list[str]) -> str:
        odd = draw(st.integers(0, 7)) == 0
        return str(draw(_value(parameter, names) if odd or not parameter.required else st.sampled_from(usual)))

    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            arguments.append(value(parameter, list(created)))
    for option in _options(draw, command):
        arguments.append(draw(st.sampled_from(list(option.opts))))
        if not option.is_flag:
            arguments.append(value(option, [_OUTPUTS.get(name, "out.parquet")]))
    if name == "plot":
        arguments[1:1] = ["--size", "200x200"]  # the smallest, unless a later option says otherwise
    if name == "fit":
        arguments += ["--set", "n_epochs=2", "--set", "cell_size=10"]
    if name == "plan" and draw(st.integers(0, 9)):
        arguments.append("--no-time")  # which would run two small fits
    return list(created.values()), arguments
