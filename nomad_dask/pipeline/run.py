"""`project`: a run from the source to the map."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nomad_dask.callbacks.events import ClusterJoined, Emit, SnapshotRequest, ignore_event
from nomad_dask.cluster import Cluster, check_reach, dashboard_of
from nomad_dask.errors import (
    ClusterError,
    InputError,
    Interrupted,
    MissingInputError,
    NomadError,
    WorkspaceError,
)
from nomad_dask.maps import check_metadata_columns, kept_schema
from nomad_dask.params import Params
from nomad_dask.pipeline import diagnostics
from nomad_dask.pipeline.collect import Layout, map_metadata
from nomad_dask.pipeline.discard import discard_unreadable, discard_unstarted
from nomad_dask.pipeline.given_init import GivenPositions, check_given_init
from nomad_dask.pipeline.given_neighbors import GivenNeighbors, check_given_neighbors, tail_of_given
from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
from nomad_dask.pipeline.outputs import (
    beside,
    check_output_disk,
    check_outputs,
    deliver,
    find_delivered,
    resolve_paths,
    run_token,
)
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.pipeline.setup import (
    connect_for,
    describe_run,
    directory_bytes,
    must_copy,
    open_workspace,
    resume_or_make_plan,
    search_again_without_lists,
    worker_memory,
)
from nomad_dask.pipeline.stage import FinishedStages, StageContext
from nomad_dask.pipeline.stage_runner import run_stages
from nomad_dask.planning.feasibility import check_resources
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import Source
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.removal import remove_directory, remove_garbage
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.memory import parse_bytes


def project(
    source: Source,
    params: Params,
    *,
    cluster: ClusterOptions | None = None,
    workspace: WorkspaceOptions | None = None,
    output: OutputOptions | None = None,
    emit: Emit = ignore_event,
    snapshot_request: SnapshotRequest | None = None,
    given_positions: GivenPositions | None = None,
    given_neighbors: GivenNeighbors | None = None,
) -> Layout:
    """Lay out the rows of a source.

    Parameters
    ----------
    source : Source
    params : Params
    cluster : ClusterOptions, optional
    workspace : WorkspaceOptions, optional
    output : OutputOptions, optional
    emit : callable
        Receives every event.
    snapshot_request : SnapshotRequest, optional
        How often `emit` receives positions during the layout; never by default.
    given_positions : GivenPositions, optional
        Initial positions, of `resolve_init`.
    given_neighbors : GivenNeighbors, optional
        Neighbors, of `resolve_neighbors` or `neighbors_of_columns`; `params` has their digest.

    Raises
    ------
    InputError, MissingInputError, WorkspaceError, ClusterError, ResourceError
        Before any work, if the error can be detected then.
    Interrupted
        The user stopped the run; it can be resumed from its workspace.
    """
    cluster = cluster or ClusterOptions()
    output, workspace = resolve_paths(output or OutputOptions(), workspace or WorkspaceOptions())
    check_metadata_columns(output.metadata_columns)
    check_given_init(source, params, given_positions)
    check_given_neighbors(source, params, given_neighbors)
    delivered = find_delivered(output, source, params, workspace)
    if delivered is not None:
        return delivered
    also_read = [] if given_positions is None or given_positions.path is None else [given_positions.path]
    also_read += [] if given_neighbors is None else given_neighbors.paths
    check_outputs(source, output, workspace, also_read)
    schema = kept_schema(source, output.metadata_columns, output.path)
    memory_limit = parse_bytes(cluster.memory_limit)
    with (
        _workspace_directory(workspace, output) as path,
        hold_lock(path),
        connect_for(source, cluster) as workers,
    ):
        remove_garbage(path)
        emit(ClusterJoined(len(workers.workers()), dashboard_of(workers.client), workers.choice))
        memory_bytes = worker_memory(workers, memory_limit)
        is_beside = path == beside(output.path)
        if is_beside:
            discard_unreadable(path)
        with discard_unstarted(path, (NomadError,), whole=is_beside):
            tail = tail_of_given(params, given_neighbors)
            run, opened = _prepare_run(source, params, workers, memory_bytes, path, workspace, output, tail)
        context = StageContext(
            run,
            workers,
            opened,
            emit,
            memory_bytes,
            workspace.keep_stages,
            run_stages,
            snapshot_request,
            None if given_positions is None else given_positions.positions,
            given_neighbors,
        )
        with discard_unstarted(path, (InputError, MissingInputError), whole=is_beside):
            finished = run_stages(context)
        diagnostics.warn(finished.diagnostics, params)
        layout = _as_layout(finished, source, params)
        deliver(layout, source, output, schema, opened)
        if is_beside:
            # It is still locked: no other run may have started in it.
            remove_directory(path, run_token(source, params, output))
    return layout


def _prepare_run(
    source: Source,
    params: Params,
    cluster: Cluster,
    memory_bytes: int,
    path: Path,
    options: WorkspaceOptions,
    output: OutputOptions,
    given_tail: int,
) -> tuple[RunContext, Workspace]:
    """Plan the run, open its workspace, and check that workers reach it and that the plan fits."""
    n_workers = len(cluster.workers())
    plan = resume_or_make_plan(path, source, params, n_workers, memory_bytes, options.overwrite, given_tail)
    plan = replace(plan, copies_source=must_copy(source, cluster), keeps_lists=output.model is not None)
    resources = estimate_resources(plan)
    disk_free = shutil.disk_usage(path).free + directory_bytes(path)
    check_resources(resources, memory_bytes, disk_free, cluster.gpu_bytes())
    check_output_disk(output.path, path, resources.stages[-1].disk_bytes)  # the last stage writes the map
    about = describe_run(source, plan, output.path, options.command)
    workspace = open_workspace(path, source, params, plan, options.overwrite, about)
    if plan.keeps_lists:
        search_again_without_lists(workspace)
    check_reach(cluster, workspace.path, source)
    run = RunContext(source, params, plan, workspace.path, cluster.device, cluster.host_threads())
    return run, workspace


def _as_layout(finished: FinishedStages, source: Source, params: Params) -> Layout:
    n_epochs = finished.diagnostics["epochs"]
    return Layout(
        positions=finished.positions,
        cell_labels=finished.cell_labels,
        n_epochs=n_epochs,
        n_planned_epochs=n_epochs,
        diagnostics=finished.diagnostics,
        metadata=map_metadata(source, params, finished.diagnostics),
        seconds=finished.seconds,
    )


@contextmanager
def _workspace_directory(options: WorkspaceOptions, output: OutputOptions) -> Iterator[Path]:
    """Yield the directory of the workspace; a temporary one is removed afterwards.

    When the run is stopped, the error names the directory if it is kept.
    """
    is_temporary = options.path is None and output.path is None
    path = options.path or beside(output.path) or Path(tempfile.mkdtemp(prefix="nomad-"))
    try:
        if options.resume and not (path / MANIFEST).exists():
            raise WorkspaceError(f"There is nothing to resume in {path}: leave --resume out to start.")
        yield path
    except (KeyboardInterrupt, ClusterError) as stop:
        kept = f" Completed work is kept in {path}." if not is_temporary and path.exists() else ""
        if isinstance(stop, ClusterError):
            raise ClusterError(f"{stop}{kept}") from stop
        raise Interrupted(f"Stopped.{kept}") from stop
    finally:
        if is_temporary:
            shutil.rmtree(path, ignore_errors=True)
