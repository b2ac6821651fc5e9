"""Before the stages: the run is planned, and its workspace is opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomad_dask._version import __version__
from nomad_dask.backends.mesh import MAX_MESH_NODES
from nomad_dask.cluster import Cluster, connect
from nomad_dask.errors import InputError, WorkspaceError
from nomad_dask.neighbors.kept_lists import KEPT_FOLDER
from nomad_dask.params import Params
from nomad_dask.pipeline.options import ClusterOptions
from nomad_dask.planning.gpu_memory import host_bytes_for_stages
from nomad_dask.planning.plan import Plan
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources.base import Source
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.workspace import Workspace, has_only_own_files
from nomad_dask.utils.memory import available_memory

# A source that workers cannot open is copied here.
SOURCE_COPY = "input.npy"


def connect_for(source: Source, options: ClusterOptions) -> AbstractContextManager[Cluster]:
    """Connect to the cluster of a run that reads a source; see `connect`."""
    return connect(
        client=options.client,
        scheduler=options.scheduler,
        scheduler_file=options.scheduler_file,
        n_workers=options.n_workers,
        device=options.device,
        data_in_process=not source.shareable,
    )


def worker_memory(cluster: Cluster, limit: int | None) -> int:
    """Return the memory in bytes that the stages may take on every worker."""
    memory = min(w.memory_bytes for w in cluster.workers())
    if cluster.in_process:
        memory = min(memory, available_memory())
    memory = memory if limit is None else min(memory, limit)
    return host_bytes_for_stages(memory, cluster.device == "gpu")


def _identity(source: Source, params: Params, n_shards: int) -> dict[str, Any]:
    return {
        "source": source.fingerprint(),
        "shape": [source.n_rows, source.n_dims],
        "params": params.as_dict(),
        "n_shards": n_shards,
    }


def resume_or_make_plan(
    path: Path,
    source: Source,
    params: Params,
    n_workers: int,
    memory: int,
    overwrite: bool = False,
    given_tail: int = 0,
) -> Plan:
    """Plan a run; one that is resumed keeps its shards, and the sizes on which the map depends if they fit.

    Workers and memory may have changed meanwhile, which must not make it another run. With `overwrite`, a workspace
    that cannot be read is ignored, as it will be replaced.
    """
    try:
        recorded = Workspace(path) if (path / MANIFEST).exists() else None
    except WorkspaceError:
        if not overwrite:
            raise
        recorded = None
    n_shards = None if recorded is None else recorded.identity.get("n_shards")
    if recorded is None or not isinstance(n_shards, int) or recorded.identity != _identity(source, params, n_shards):
        return make_plan(source, params, n_workers, memory, given_tail)
    plan = make_plan(source, params.replace(n_shards=n_shards), n_workers, memory, given_tail)
    sizes = recorded.about.get("plan", {})
    accepted = {
        "block_rows": range(1, plan.block_rows + 1),
        "n_batches": range(plan.n_batches, plan.n_cells + 1),
        "region_rows": range(plan.region_rows + 1),
        "max_mesh_nodes": range(MAX_MESH_NODES, plan.max_mesh_nodes + 1),
    }
    recorded_sizes = {name: sizes.get(name) for name in accepted} if isinstance(sizes, dict) else {}
    kept: dict[str, Any] = {name: s for name, s in recorded_sizes.items() if type(s) is int and s in accepted[name]}
    return replace(plan, **kept)


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


def must_copy(source: Source, cluster: Cluster) -> bool:
    """Return whether the vectors must be copied to the workspace, as workers cannot open the source."""
    return not (source.shareable or cluster.in_process)


def directory_bytes(path: Path) -> int:
    """Return the disk space that the artifacts in a directory take already."""
    return sum(p.stat().st_size for p in path.rglob("*.npy") if p.is_file())


def open_workspace(
    path: Path, source: Source, params: Params, plan: Plan, overwrite: bool, about: dict[str, Any] | None = None
) -> Workspace:
    """Open the workspace of a run, or create it; one of another run is replaced with `overwrite`, or if it is empty.

    Raises
    ------
    WorkspaceError
        It belongs to another run, or the directory is not a workspace.
    InputError
        It cannot be created.
    """
    identity = _identity(source, params, plan.n_shards)
    try:
        try:
            return Workspace(path, identity, about)
        except WorkspaceError:
            if not _is_replaceable(path, overwrite):
                raise
            return Workspace.replace(path, identity, about)
    except OSError as error:
        raise InputError(f"The workspace {str(path)!r} cannot be created ({error}): give another directory.") from error


def search_again_without_lists(workspace: Workspace) -> None:
    """Drop the neighbor search of a run that did not keep its lists, so that it runs again and keeps them."""
    record = workspace.stages().get("neighbors")
    if record is not None and not any(name.startswith(f"{KEPT_FOLDER}/") for name in record.artifacts):
        workspace.drop_stage("neighbors")


def _is_replaceable(path: Path, overwrite: bool) -> bool:
    """Return whether a workspace can be replaced by that of another run.

    One without a finished stage has nothing to lose. With `overwrite`, one whose manifest cannot be read is replaced
    too, if there is nothing but arrays and hidden files beside it.
    """
    if not (path / MANIFEST).exists():
        return False
    try:
        return not Workspace(path).stages() or overwrite
    except WorkspaceError:
        return overwrite and has_only_own_files(path)
