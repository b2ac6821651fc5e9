"""How far a run is: read from its workspace, which stays as it is, also while the run goes on."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nomad_dask.errors import InputError, MissingInputError, WorkspaceError
from nomad_dask.layout.schedule import schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.diagnostics import quality_warnings
from nomad_dask.pipeline.stages import ORDER, pending_stages
from nomad_dask.planning.plan import n_coarse_rows
from nomad_dask.storage.lock import is_running, read_lock_owner
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.formatting import format_bytes

_FILES = {
    "sample": ("sample/*", "input.npy"),
    "coarse": ("coarse/*",),
    "cells": ("cells/*",),
    "shards": ("exchange/*", "shards/*"),
    "neighbors": ("lists/*", "graph/*"),
    "layout": ("layout/*",),
}


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run.

    Attributes
    ----------
    name : str
    state : {'done', 'running', 'stopped', 'not begun', 'damaged', 'to do again'}
        'stopped' has left something; 'to do again' made what a damaged stage reads and what was given back since.
    seconds : float or None
        What it took, if it is done.
    disk_bytes : int
        What it takes on disk now.
    facts : dict
        What was measured.
    """

    name: str
    state: str
    seconds: float | None
    disk_bytes: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Status:
    """What a workspace tells of its run.

    Attributes
    ----------
    workspace, source : str
    n_rows, n_dims, n_shards : int
    params : dict
        Settings that differ from the defaults.
    version : str
        That began the run, or took it up last.
    state : {'running', 'finished', 'stopped'}
    holder : str or None
        The process that works on it, or has written that it does on another host.
    stages : tuple of Stage
    epoch, n_epochs : int
        Of the last checkpoint of the layout, and in all.
    checkpoint_age : float or None
        Seconds since that checkpoint.
    damage : tuple of str
        What is missing or not as it was written.
    quality_warnings : tuple of str
        Figures that are bad, and what to change.
    disk_bytes : int
    go_on : str
        What to do or to type next.
    """

    workspace: str
    source: str
    n_rows: int
    n_dims: int
    n_shards: int
    params: dict[str, Any]
    version: str
    state: str
    holder: str | None
    stages: tuple[StageStatus, ...]
    epoch: int
    n_epochs: int
    checkpoint_age: float | None
    damage: tuple[str, ...]
    quality_warnings: tuple[str, ...]
    disk_bytes: int
    go_on: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def read_status(path: Path, sizes_only: bool = False) -> Status:
    """Read how far the run in a workspace is.

    Parameters
    ----------
    path : Path
    sizes_only : bool
        Look at the sizes of the artifacts and not at their content.

    Raises
    ------
    MissingInputError
        There is no such directory.
    WorkspaceError
        It is no workspace, or its manifest cannot be read.
    """
    if not path.exists():
        raise MissingInputError(f"There is no workspace {str(path)!r}: give the directory of a run.")
    if not path.is_dir():
        raise WorkspaceError(f"{str(path)!r} is no directory: give the directory of a run.")
    workspace = Workspace(path)
    holder = read_lock_owner(path)
    running = None if holder is None else is_running(holder)
    harm = _damage(workspace, sizes_only)
    workspace = Workspace(path)  # a run at work may have given back meanwhile what was being read
    params, (n_rows, n_dims), n_shards = _identity(workspace)
    coarse = n_coarse_rows(n_rows, params.coarse_init) > 0
    known = workspace.stages()
    again = pending_stages(known, coarse, set(harm))
    damage = tuple(text for texts in harm.values() for text in texts)
    sizes = _sizes(path)
    stages = []
    at_work = bool(running)
    for name in ORDER:
        if name in ("start", "map") or (name == "coarse" and not coarse):
            continue
        size = sum(s for file, s in sizes.items() if any(fnmatchcase(file, p) for p in _FILES[name]))
        entry = known.get(name)
        if name not in again and entry is not None:
            state = "done"
        elif at_work:
            state, at_work = "running", False
        elif name in harm or (name == "layout" and "checkpoint" in harm):
            state = "damaged"
        elif entry is not None:
            state = "to do again"
        else:
            state = "stopped" if size else "not begun"
        facts = {} if entry is None else entry.facts
        stages.append(StageStatus(name, state, None if entry is None else entry.seconds, size, facts))
    checkpoint = known.get("checkpoint")
    finished = all(stage.state == "done" for stage in stages)
    about = workspace.about
    measured = {figure: value for stage in stages for figure, value in stage.facts.items()}
    defaults = {f.name: f.default for f in fields(Params)}
    state = "finished" if finished and not running else "running" if running else "stopped"
    return Status(
        workspace=str(path),
        source=str(about.get("source", "unknown")),
        n_rows=n_rows,
        n_dims=n_dims,
        n_shards=n_shards,
        params={name: value for name, value in params.as_dict().items() if value != defaults[name]},
        version=str(about.get("version", "unknown")),
        state=state,
        holder=None if holder is None or running is False else str(holder),
        stages=tuple(stages),
        epoch=0 if checkpoint is None else int(checkpoint.facts["epoch"]),
        n_epochs=schedule(params, n_rows, refining=coarse).n_epochs,
        checkpoint_age=None if checkpoint is None or checkpoint.at is None else max(0.0, time.time() - checkpoint.at),
        damage=damage,
        quality_warnings=tuple(quality_warnings(measured, params)),
        disk_bytes=sum(sizes.values()),
        go_on=_go_on(path, about, state),
    )


def _identity(workspace: Workspace) -> tuple[Params, tuple[int, int], int]:
    """Return parameters, shape and shards of the run."""
    try:
        identity = workspace.identity
        n_rows, n_dims = identity["shape"]
        return Params(**identity["params"]), (int(n_rows), int(n_dims)), int(identity["shards"])
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise WorkspaceError(
            f"{workspace.path / MANIFEST} tells of no run that this version knows ({error}): "
            "look with the version that made it, or give another workspace."
        ) from error


def _damage(workspace: Workspace, sizes_only: bool) -> dict[str, list[str]]:
    """Return what is damaged by stage; what was given back while it was read is not."""
    found = {stage: list(workspace.damage(stage, sizes_only)) for stage in workspace.stages()}
    if not any(found.values()):
        return {}
    now = Workspace(workspace.path).stages()
    known = workspace.stages()
    return {
        stage: texts for stage, texts in found.items() if texts and stage in now and now[stage].at == known[stage].at
        and now[stage].released == known[stage].released
    }  # fmt: skip


def _sizes(path: Path) -> dict[str, int]:
    """Return the bytes of every file of a directory, by its name there."""
    sizes = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            try:
                sizes[file.relative_to(path).as_posix()] = file.lstat().st_size
            except FileNotFoundError:  # a run at work has removed it
                continue
    return sizes


def _go_on(path: Path, about: dict[str, Any], state: str) -> str:
    """Return what to do next."""
    if state == "running":
        return "It is running: wait, or stop it with Ctrl-C, which keeps what is done."
    command = list(about.get("command") or [])
    if not command:
        return f"Fit the same data with the same parameters and NomadProjection(workspace={str(path)!r})."
    kept = []
    words = iter(command)
    for word in words:
        if word == "--workspace":
            next(words, None)
        elif word != "--resume" and not word.startswith("--workspace="):
            kept.append(word)
    return shlex.join([*kept, "--workspace", str(path), "--resume"])


def format_status(status: Status) -> str:
    """Return a status as text for people."""
    lines = [
        f"workspace  {status.workspace} ({format_bytes(status.disk_bytes)})",
        f"source     {status.source}: {status.n_rows:,} rows × {status.n_dims:,} dimensions",
        f"run        {status.state}{f' by {status.holder}' if status.holder else ''}, "
        f"{status.n_shards} shard{'s' if status.n_shards > 1 else ''}, nomad-dask {status.version}",
        f"settings   {', '.join(f'{n}={v!r}' for n, v in status.params.items()) or 'the defaults'}",
        "",
    ]
    for stage in status.stages:
        taken = "" if stage.seconds is None else f"{stage.seconds:,.1f} s"
        size = format_bytes(stage.disk_bytes) if stage.disk_bytes else ""
        facts = ", ".join(_fact(n, v) for n, v in stage.facts.items() if isinstance(v, (bool, int, float)))
        lines.append(f"{stage.name:<10} {stage.state:<11} {taken:>10} {size:>10}  {facts}".rstrip())
    if status.epoch:
        age = "" if status.checkpoint_age is None else f", {_ago(status.checkpoint_age)} ago"
        lines += ["", f"last checkpoint: epoch {status.epoch:,} of {status.n_epochs:,}{age}"]
    lines += ["", *(f"damaged: {text}" for text in status.damage)] if status.damage else []
    lines += ["", *(f"warning: {text}" for text in status.quality_warnings)] if status.quality_warnings else []
    return "\n".join([*lines, "", f"to see the map again: {status.go_on}" if status.state == "finished" else
                      f"to go on: {status.go_on}"])  # fmt: skip


def _fact(name: str, value: float) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if not isinstance(value, bool) else str(value)
    return f"{name} {text}"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
