"""The documentation uses the current names: those of options, and those in the table of renamed ones."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nomad_dask import LiveMap, NomadProjection, Params, callbacks, read_map
from nomad_dask.cli import cli
from nomad_dask.metrics import score, scores

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


def long_options() -> Iterator[list[str]]:
    """Yield the long names of each option of all commands, the standard one first."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield [text for text in parameter.opts if text.startswith("--")]


ALIASES = {alias: names[0] for names in long_options() for alias in names[1:]}


def test_there_are_aliases() -> None:
    assert ALIASES["--workers"] == "--n-workers"
    assert ALIASES["--memory"] == "--memory-limit"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_show_standard_names_of_options(page: Path) -> None:
    text = page.read_text()
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    # Benchmarks have options of their own; there only commands of ours count.
    if page.is_relative_to(ROOT / "benchmarks"):
        text = "\n".join(line for line in text.splitlines() if "nomad-dask " in line or " -- --" in line)
    used = {option for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text) if option in ALIASES}
    assert used == set(), f"use {', '.join(ALIASES[option] for option in used)}"


def renamed() -> list[tuple[str, str, str]]:
    """Return the rows of the table of renamed names: kind, old and new name."""
    rows: list[tuple[str, str, str]] = []
    for line in (ROOT / "CHANGELOG.md").read_text().splitlines():
        if match := re.fullmatch(r" *\| ([^|]*)\| (`[^|]*)\| (`[^|]*)\|", line):
            kind, old, new = (text.strip() for text in match.groups())
            rows.append((kind or rows[-1][0], old, re.findall(r"`([^`]+)`", new)[0]))
    return rows


def test_table_of_renamed_names_has_all_aliases() -> None:
    options = {old.strip("`"): new for kind, old, new in renamed() if kind == "option"}
    assert options == ALIASES


@pytest.mark.parametrize(("kind", "old", "new"), renamed(), ids=lambda text: text.strip("`"))
def test_new_names_exist(kind: str, old: str, new: str) -> None:
    old = old.strip("`")
    if kind == "estimator parameter":
        names: set[str] = set(inspect.signature(NomadProjection).parameters)
    elif kind == "`Params` only":
        names = set(inspect.signature(Params).parameters)
    elif kind == "parameter of `fit` and `fit_transform`":
        names = set(inspect.signature(NomadProjection.fit).parameters)
        assert new in inspect.signature(NomadProjection.fit_transform).parameters
    elif kind == "parameter of `score`":
        names = set(inspect.signature(score).parameters)
    elif kind == "parameter of `read_map`":
        names = set(inspect.signature(read_map).parameters)
    elif kind == "attribute":
        names = set(re.findall(r"^ *(\w+_) : ", inspect.getdoc(NomadProjection) or "", re.MULTILINE))
    elif kind == "option":
        assert ALIASES[old] == new
        return
    elif kind == "module":
        importlib.import_module(new)
        return
    elif kind == "result of `score`":
        names = set(vars(scores))
    elif kind == "event":
        names = set(vars(callbacks))
    elif kind == "attribute of callbacks":
        names = set(dir(LiveMap()))
    else:
        assert kind == "callback class"
        classes = {"SnapshotRequest": callbacks.SnapshotRequest, "LiveMap": LiveMap}
        name, parameters = re.fullmatch(r"(\w+)\((.*)\)", new).groups()
        assert list(inspect.signature(classes[name]).parameters)[:2] == parameters.split(", ")
        return
    assert new in names
    assert old not in names
