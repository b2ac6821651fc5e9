"""Before the stages: the output is checked, the run is planned, and its workspace is opened."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomad_dask._version import __version__
from nomad_dask.cluster import Cluster
from nomad_dask.errors import InputError, WorkspaceError
from nomad_dask.params import Params
from nomad_dask.planning.plan import Plan
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources.base import Source
from nomad_dask.storage.lock import LOCK
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.memory import available_memory


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse, before any work, an output that cannot be written.

    Raises
    ------
    InputError
    """
    if output.is_dir():
        raise InputError(f"The output {str(output)!r} is a directory: give a file name such as map.parquet.")
    if output.exists() and not overwrite:
        raise InputError(f"The output {str(output)!r} exists: give another name, or --overwrite it.")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"The directory {str(parent)!r} of the output does not exist: create it first.")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"The output {str(output)!r} cannot be written ({error}): give another directory.") from error


def worker_memory(cluster: Cluster, limit: int | None) -> int:
    """Return the memory in bytes that every worker has, or may use."""
    memory = min(w.memory_bytes for w in cluster.workers())
    if cluster.in_process:
        memory = min(memory, available_memory())
    return memory if limit is None else min(memory, limit)


def _identity(source: Source, params: Params, n_shards: int) -> dict[str, Any]:
    return {
        "source": source.fingerprint(),
        "shape": [source.n_rows, source.n_dims],
        "params": params.as_dict(),
        "n_shards": n_shards,
    }


def resume_or_make_plan(path: Path, source: Source, params: Params, n_workers: int, memory: int) -> Plan:
    """Plan a run; one that is resumed keeps its number of shards and its block size.

    Workers and memory may have changed meanwhile, which must not make it another run.
    """
    if not (path / MANIFEST).exists():
        return make_plan(source, params, n_workers, memory)
    recorded = Workspace(path)
    n_shards = recorded.identity.get("n_shards")
    if not isinstance(n_shards, int) or recorded.identity != _identity(source, params, n_shards):
        return make_plan(source, params, n_workers, memory)
    plan = make_plan(source, params.replace(n_shards=n_shards), n_workers, memory)
    block_rows = recorded.about.get("plan", {}).get("block_rows", plan.block_rows)
    return plan if block_rows > plan.block_rows else replace(plan, block_rows=block_rows)


def describe_run(source: Source, plan: Plan, output: Path | None, command: Sequence[str]) -> dict[str, Any]:
    """Return the information for people that the workspace records."""
    return {
        "version": __version__,
        "source": source.name,
        "dtype": str(source.dtype),
        "output": None if output is None else str(output),
        "command": list(command),
        "plan": plan.as_dict(),
    }


def directory_bytes(path: Path) -> int:
    """Return the disk space that the artifacts in a directory take already."""
    return sum(p.stat().st_size for p in path.rglob("*.npy") if p.is_file())


def open_workspace(
    path: Path, source: Source, params: Params, plan: Plan, overwrite: bool, about: dict[str, Any] | None = None
) -> Workspace:
    """Open the workspace of a run, or create it; with `overwrite`, one of another run is emptied first.

    Raises
    ------
    WorkspaceError
        It belongs to another run, or the directory is not a workspace.
    InputError
        It cannot be created.
    """
    identity = _identity(source, params, plan.n_shards)
    try:
        return Workspace(path, identity, about)
    except WorkspaceError:
        if not overwrite or not (path / MANIFEST).exists():
            raise
        for old in path.iterdir():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            elif old.name != LOCK:
                old.unlink()
        return Workspace(path, identity, about)
    except OSError as error:
        raise InputError(f"The workspace {str(path)!r} cannot be created ({error}): give another directory.") from error
