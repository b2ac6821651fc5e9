"""How far a run is: read from its workspace, which is left unchanged, also while the run is in progress."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nomad_dask.errors import InputError, MissingInputError, WorkspaceError
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.diagnostics import quality_warnings
from nomad_dask.pipeline.pending import pending_stages
from nomad_dask.pipeline.stage import Stage
from nomad_dask.pipeline.stages import stages_of_run
from nomad_dask.planning.planner import n_coarse_rows
from nomad_dask.storage.lock import LockOwner, is_running, read_lock_owner
from nomad_dask.storage.manifest import CHECKPOINT, MANIFEST, StageRecord
from nomad_dask.storage.workspace import Workspace


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run.

    Attributes
    ----------
    name : str
    state : {'done', 'running', 'stopped', 'not started', 'damaged', 'to rerun'}
        'stopped' has left files; 'to rerun' made artifacts that a damaged stage reads and that were removed since.
    seconds : float or None
        Wall time, if it is done.
    disk_bytes : int
        Size of its files on disk now.
    facts : dict
        Measurements.
    """

    name: str
    state: str
    seconds: float | None
    disk_bytes: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Status:
    """The state of a run, as read from its workspace.

    Attributes
    ----------
    workspace, source : str
    n_rows, n_dims, n_shards : int
    params : dict
        Settings that differ from the defaults.
    version : str
        Version of nomad-dask that started the run, or resumed it last.
    state : {'running', 'finished', 'stopped'}
    lock_owner : str or None
        The process that works on it, or may do so on another host.
    stages : tuple of StageStatus
    epoch, n_epochs : int
        Epoch of the last checkpoint of the layout, and number of epochs in all.
    checkpoint_age : float or None
        Seconds since that checkpoint.
    damage : tuple of str
        Artifacts that are missing or do not match what was recorded.
    quality_warnings : tuple of str
        Poor measurements, and what to change.
    disk_bytes : int
    next_step : str
        What to do, or the command to type, next.
    """

    workspace: str
    source: str
    n_rows: int
    n_dims: int
    n_shards: int
    params: dict[str, Any]
    version: str
    state: str
    lock_owner: str | None
    stages: tuple[StageStatus, ...]
    epoch: int
    n_epochs: int
    checkpoint_age: float | None
    damage: tuple[str, ...]
    quality_warnings: tuple[str, ...]
    disk_bytes: int
    next_step: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def read_status(path: Path, sizes_only: bool = False) -> Status:
    """Read how far the run in a workspace is.

    Parameters
    ----------
    path : Path
    sizes_only : bool
        Compare the sizes of the artifacts, not their checksums.

    Raises
    ------
    MissingInputError
        There is no such directory.
    WorkspaceError
        The directory is not a workspace, or its manifest cannot be read.
    """
    if not path.exists():
        raise MissingInputError(f"There is no workspace {str(path)!r}: give the directory of a run.")
    if not path.is_dir():
        raise WorkspaceError(f"{str(path)!r} is not a directory: give the directory of a run.")
    owner = read_lock_owner(path)
    running = None if owner is None else is_running(owner)
    damage = _damage(Workspace(path), sizes_only)
    # Opened after that: a run in progress may have removed artifacts while they were being checked.
    workspace = Workspace(path)
    params, (n_rows, n_dims), n_shards = _identity(workspace)
    stages = stages_of_run(n_coarse_rows(n_rows, params) > 0)
    sizes = _sizes(path)
    statuses = _stage_statuses(stages, workspace.stages(), damage, sizes, is_running=bool(running))
    state = _run_state(statuses, is_running=bool(running))
    n_epochs = make_schedule(params, n_rows).n_epochs
    measured = {name: value for stage in statuses for name, value in stage.facts.items()}
    return Status(
        workspace=str(path),
        source=str(workspace.about.get("source", "unknown")),
        n_rows=n_rows,
        n_dims=n_dims,
        n_shards=n_shards,
        params=params.changed(),
        version=str(workspace.about.get("version", "unknown")),
        state=state,
        lock_owner=_describe_owner(owner, running),
        stages=statuses,
        n_epochs=n_epochs,
        **_checkpoint(workspace.stages().get(CHECKPOINT)),
        damage=tuple(text for texts in damage.values() for text in texts),
        quality_warnings=tuple(quality_warnings(measured, params)),
        disk_bytes=sum(sizes.values()),
        next_step=_next_step(path, workspace.about, state),
    )


def _identity(workspace: Workspace) -> tuple[Params, tuple[int, int], int]:
    """Return parameters, shape and number of shards of the run."""
    try:
        identity = workspace.identity
        n_rows, n_dims = identity["shape"]
        return Params(**identity["params"]), (int(n_rows), int(n_dims)), int(identity["n_shards"])
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise WorkspaceError(
            f"{workspace.path / MANIFEST} describes no run that this version knows ({error}): "
            "use the version that made it, or give another workspace."
        ) from error


def _damage(workspace: Workspace, sizes_only: bool) -> dict[str, list[str]]:
    """Return the damage by stage, without artifacts that the run has removed while they were being checked."""
    found = {stage: list(workspace.damage(stage, sizes_only)) for stage in workspace.stages()}
    if not any(found.values()):
        return {}
    before, now = workspace.stages(), Workspace(workspace.path).stages()

    def is_unchanged(stage: str) -> bool:
        return stage in now and (now[stage].at, now[stage].released) == (before[stage].at, before[stage].released)

    return {stage: texts for stage, texts in found.items() if texts and is_unchanged(stage)}


def _stage_statuses(
    stages: Sequence[Stage],
    records: dict[str, StageRecord],
    damage: dict[str, list[str]],
    sizes: dict[str, int],
    is_running: bool,
) -> tuple[StageStatus, ...]:
    """Return the status of every stage with artifacts; the first pending one of a run in progress is running."""
    pending = pending_stages(stages, records, damage)
    statuses = []
    for stage in stages:
        if stage.function is None:
            continue
        record = records.get(stage.name)
        size = sum(s for file, s in sizes.items() if any(fnmatchcase(file, pattern) for pattern in stage.writes))
        is_damaged = stage.name in damage or (stage.has_checkpoints and CHECKPOINT in damage)
        if stage.name not in pending and record is not None:
            state = "done"
        elif is_running:
            state, is_running = "running", False
        elif is_damaged:
            state = "damaged"
        elif record is not None:
            state = "to rerun"
        else:
            state = "stopped" if size else "not started"
        seconds, facts = (None, {}) if record is None else (record.seconds, record.facts)
        statuses.append(StageStatus(stage.name, state, seconds, size, facts))
    return tuple(statuses)


def _run_state(stages: Sequence[StageStatus], is_running: bool) -> str:
    if is_running:
        return "running"
    return "finished" if all(stage.state == "done" for stage in stages) else "stopped"


def _describe_owner(owner: LockOwner | None, running: bool | None) -> str | None:
    """Return the process that holds the lock, unless it is known to have ended."""
    return None if owner is None or running is False else str(owner)


def _checkpoint(record: StageRecord | None) -> dict[str, Any]:
    """Return epoch and age of the last checkpoint."""
    if record is None:
        return {"epoch": 0, "checkpoint_age": None}
    age = None if record.at is None else max(0.0, time.time() - record.at)
    return {"epoch": int(record.facts["epoch"]), "checkpoint_age": age}


def _sizes(path: Path) -> dict[str, int]:
    """Return the size in bytes of every file in a directory, by its relative path."""
    sizes = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            try:
                sizes[file.relative_to(path).as_posix()] = file.lstat().st_size
            except FileNotFoundError:  # removed by a run in progress
                continue
    return sizes


def _next_step(path: Path, about: dict[str, Any], state: str) -> str:
    """Return what to do next."""
    if state == "running":
        return "It is running: wait, or stop it with Ctrl-C, which keeps completed work."
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
