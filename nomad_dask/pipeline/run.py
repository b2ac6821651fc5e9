"""The stages in order: sample, coarse map, cells, shards, neighbours, layout, gather."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.callbacks.events import (
    CheckpointWritten,
    ClusterJoined,
    Emit,
    Event,
    Measured,
    SnapshotRequest,
    StageAdvanced,
    StageFinished,
    StageStarted,
    prefix_coarse_events,
)
from nomad_dask.cluster import Cluster, assign_shards, check_reach, connect, dashboard_of
from nomad_dask.errors import ClusterError, Interrupted, WorkspaceError
from nomad_dask.layout.optimize import optimize_layout
from nomad_dask.maps import check_metadata_columns, write_map
from nomad_dask.neighbors import nn_descent_rounds
from nomad_dask.neighbors import stage as neighbors
from nomad_dask.neighbors.halo import load_cell_catalog
from nomad_dask.neighbors.search import SearchState
from nomad_dask.params import Params
from nomad_dask.partition.clustering import fit_cells_stage
from nomad_dask.partition.sampling import copy_rows, draw_sample
from nomad_dask.partition.shard_files import RUNS_FOLDER
from nomad_dask.partition.shuffle_merge import merge_runs
from nomad_dask.partition.shuffle_write import write_runs
from nomad_dask.pipeline import diagnostics
from nomad_dask.pipeline.collect import Layout, collect_positions, map_metadata
from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
from nomad_dask.pipeline.setup import (
    check_output,
    describe_run,
    directory_bytes,
    open_workspace,
    resume_or_make_plan,
    worker_memory,
)
from nomad_dask.pipeline.stages import FOLDERS, ORDER, find_damage, pending_stages, unreferenced_artifacts
from nomad_dask.planning.feasibility import check_resources
from nomad_dask.planning.plan import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import Source
from nomad_dask.sources.npy import NpySource, copy_to_npy
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.manifest import MANIFEST
from nomad_dask.storage.workspace import Workspace
from nomad_dask.utils.memory import parse_bytes

_COARSE_PRESET = {"fast": "default", "default": "best", "best": "best"}


def _ignore_event(event: Event) -> None:
    """Do nothing."""


def project(
    source: Source,
    params: Params,
    *,
    cluster: ClusterOptions | None = None,
    workspace: WorkspaceOptions | None = None,
    output: OutputOptions | None = None,
    emit: Emit = _ignore_event,
    snapshot_request: SnapshotRequest | None = None,
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

    Raises
    ------
    InputError, MissingInputError, WorkspaceError, ClusterError, ResourceError
        Before any work, if the error can be detected then.
    Interrupted
        The user stopped the run; it can be resumed from its workspace.
    """
    cluster, output = cluster or ClusterOptions(), output or OutputOptions()
    workspace = workspace or WorkspaceOptions()
    check_metadata_columns(output.metadata_columns)
    if output.path is not None:
        check_output(output.path, output.overwrite)
    limit = parse_bytes(cluster.memory_limit)
    with (
        _workspace_directory(workspace, output) as path,
        hold_lock(path),
        connect(
            cluster.client,
            cluster.scheduler,
            cluster.n_workers,
            cluster.device,
            here=not source.shareable,
            scheduler_file=cluster.scheduler_file,
        ) as workers,
    ):
        emit(ClusterJoined(len(workers.workers()), dashboard_of(workers.client)))
        memory = worker_memory(workers, limit)
        plan = resume_or_make_plan(path, source, params, len(workers.workers()), memory)
        about = describe_run(source, plan, output.path, workspace.command)
        home = open_workspace(path, source, params, plan, workspace.overwrite, about)
        check_resources(
            plan, memory, shutil.disk_usage(home.path).free + directory_bytes(home.path), workers.gpu_bytes()
        )
        check_reach(workers, home.path, source)
        run = RunContext(source, params, plan, home.path, workers.device, workers.host_threads())
        stages = _Stages(run, workers, home, emit, workspace.keep_stages, memory, snapshot_request)
        positions, cell_labels = stages.all()
        diagnostics.warn(stages.diagnostics, params)
        metadata = map_metadata(source, params, stages.diagnostics)
        if output.path is not None:
            write_map(output.path, positions, cell_labels, source, output.metadata_columns, metadata)
        if path == _beside(output.path):
            shutil.rmtree(path, ignore_errors=True)  # still locked: no other run may have started in it
    n_epochs = stages.diagnostics["epochs"]
    return Layout(positions, cell_labels, n_epochs, n_epochs, stages.diagnostics, metadata, stages.seconds)


@contextmanager
def _workspace_directory(options: WorkspaceOptions, output: OutputOptions) -> Iterator[Path]:
    """Yield the directory of the workspace; a temporary one is removed afterwards.

    When the run is stopped, the error names the directory if it is kept.
    """
    is_temporary = options.path is None and output.path is None
    path = options.path or _beside(output.path) or Path(tempfile.mkdtemp(prefix="nomad-"))
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


def _beside(output: Path | None) -> Path | None:
    """Return the default workspace of an output file."""
    return None if output is None else output.with_name(output.name + ".nomad")


class _Stages:
    """The stages of one run; each is skipped when the workspace holds what it makes."""

    def __init__(
        self,
        run: RunContext,
        cluster: Cluster,
        workspace: Workspace,
        emit: Emit,
        keep_stages: bool,
        memory: int,
        snapshot_request: SnapshotRequest | None = None,
    ) -> None:
        self.run, self.cluster, self.workspace = run, cluster, workspace
        self.keep_stages, self.memory, self._tell, self._sight = keep_stages, memory, emit, snapshot_request
        self.diagnostics: dict[str, Any] = {"n_shards": run.plan.n_shards}
        self.seconds: dict[str, float] = {}
        self._coarse_start = run.plan.coarse_rows > 0
        damaged = find_damage(workspace)
        self._to_do = pending_stages(workspace.stages(), self._coarse_start, damaged)
        # A coarse map in the making has its own workspace, which is taken up.
        workspace.clean(set(FOLDERS) - ({"coarse"} & self._to_do))

    def emit(self, event: Event) -> None:
        """Tell an event; what was needed until the first checkpoint only is given back after it."""
        if isinstance(event, CheckpointWritten):
            self._give_back()
        self._tell(event)

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Run them and return positions and cells of all rows in input order."""
        n = self.run.plan.n_rows
        reading = {"sample", "shards"} & self._to_do
        if reading and not self.run.source.shareable and not self.cluster.in_process:
            copy = copy_to_npy(self.run.source, self.workspace.file("input.npy"), self.run.plan.block_rows)
            self.run = replace(self.run, source=copy)
        self._stage("sample", n, self._sample)
        if self._coarse_start:
            self._stage("coarse", self.run.plan.coarse_rows, self._coarse)
        self._stage("cells", self.run.plan.sample_rows, self._cells)
        self._stage("shards", n, self._shards)
        self.workspace.file("input.npy").unlink(missing_ok=True)
        self._stage("neighbors", n, self._neighbors)
        self._stage("layout", None, self._layout)
        return collect_positions(self.workspace, self.run.plan.n_shards, self.diagnostics["epochs"])

    def _stage(self, name: str, total: int | None, work: Callable[[], tuple[list[Any], dict[str, Any]]]) -> None:
        started = time.monotonic()
        resumed = name not in self._to_do
        if not resumed:
            if total is not None:
                self.emit(StageStarted(name, total, "rows"))
            artifacts, facts = work()
            if self.workspace.record(name, artifacts, time.monotonic() - started, **facts):
                # It came out otherwise than before: what was made of it is of no use.
                for later in (*ORDER[ORDER.index(name) + 1 :], "checkpoint"):
                    self.workspace.drop_stage(later)
                    self._to_do |= {later} & set(ORDER)
            self._to_do.discard(name)
        self._give_back()
        facts = self.workspace.recorded_facts(name) or {}
        self.seconds[name] = time.monotonic() - started
        self.diagnostics |= facts
        for figure, value in facts.items():
            if isinstance(value, float):
                self.emit(Measured(figure, value))
        self.emit(StageFinished(name, self.seconds[name], resumed))

    def _give_back(self) -> None:
        """Remove what no stage to come needs."""
        if not self.keep_stages:
            self.workspace.prune(unreferenced_artifacts(self.workspace, self._to_do, self._coarse_start))

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        """Return a listener that adds up what the tasks of a stage report."""
        done: dict[int, int] = {}

        def advanced(task: int, units: int) -> None:
            done[task] = units
            self.emit(StageAdvanced(stage, sum(done.values())))

        return advanced

    def _sample(self) -> tuple[list[Any], dict[str, Any]]:
        names = draw_sample(self.run, self.cluster, self._progress("sample"))
        return [self.workspace.describe(n) for n in names], {}

    def _coarse(self) -> tuple[list[Any], dict[str, Any]]:
        """Lay out a random part of the sample as one shard, by the same stages."""
        rows = self.workspace.load("sample/rows.npy")
        rng = np.random.default_rng([self.run.params.random_state, 3])
        part = np.sort(rng.choice(len(rows), self.run.plan.coarse_rows, replace=False))
        self.workspace.save("coarse/rows.npy", rows[part])
        copy_rows(self.run.file("sample/vectors.npy"), self.run.file("coarse/vectors.npy"), part)
        source = NpySource(self.run.file("coarse/vectors.npy"))
        preset = _COARSE_PRESET[self.run.params.preset]
        params = self.run.params.replace(
            n_shards=1,
            n_cells=None,
            n_epochs=None,
            learning_rate=None,
            momentum=None,
            preset=preset,
            coarse_init="auto",
        )
        plan = make_plan(source, params, 1, self.memory)
        place = self.run.file("coarse/run")
        home = open_workspace(place, source, params, plan, overwrite=True)
        run = RunContext(source, params, plan, place, self.run.device, self.run.host_threads)
        inner = _Stages(run, self.cluster, home, prefix_coarse_events(self.emit), self.keep_stages, self.memory)
        positions, _ = inner.all()
        self.workspace.save("coarse/positions.npy", positions)
        self.workspace.remove("coarse/run")
        self.run.file("coarse/vectors.npy").unlink()
        names = ("coarse/rows.npy", "coarse/positions.npy")
        return [self.workspace.describe(n) for n in names], {}

    def _cells(self) -> tuple[list[Any], dict[str, Any]]:
        ((names, facts),) = self.cluster.run(fit_cells_stage, [(self.run.without_vectors(),)])
        return [self.workspace.describe(n) for n in names], facts

    def _shards(self) -> tuple[list[Any], dict[str, Any]]:
        write_runs(self.run, self.cluster, self._progress("shards"))
        n_blocks = len(self.run.source.blocks(self.run.plan.block_rows))
        made = self.cluster.run(merge_runs, [(*job, n_blocks) for job in self._jobs()])
        self.workspace.remove(RUNS_FOLDER)
        cells = load_cell_catalog(self.run)
        sizes = [cells.counts[a:b].sum() for a, b in zip(cells.edges[:-1], cells.edges[1:], strict=True)]
        facts = {
            "n_cells": len(cells.counts),
            "largest_cell": int(cells.counts.max()),
            "imbalance": float(max(sizes) / np.mean(sizes)),
        }
        return [a for artifacts in made for a in artifacts], facts

    def _neighbors(self) -> tuple[list[Any], dict[str, Any]]:
        jobs = self._jobs()
        advanced = self._progress("neighbors")
        if neighbors.uses_halo(self.run):
            efforts = self._search_across(advanced)
            answers = self.cluster.run(neighbors.build_graph, [(*job, e) for job, e in zip(jobs, efforts, strict=True)])
        else:
            answers = self.cluster.run(neighbors.build_graph, jobs, advanced)
        patches = self.cluster.run(neighbors.build_patches, jobs)
        links = self.cluster.run(neighbors.build_cross_shard_edges, jobs)
        self.workspace.remove(nn_descent_rounds.FOLDER)
        pieces = diagnostics.graph_components(self.run.without_vectors(), self.cluster)
        rows = [facts["rows"] for _, facts in answers]

        def mean(figure: str) -> float:
            return float(np.average([facts[figure] for _, facts in answers], weights=rows))

        facts = {
            "recall": mean("recall"),
            "n_probes": mean("n_probes"),
            "rounds": mean("rounds"),
            "foreign_share": mean("foreign_share"),
            "edges": sum(facts["edges"] for _, facts in answers),
            **pieces,
        }
        return [a for artifacts in (*[made for made, _ in answers], *patches, *links) for a in artifacts], facts

    def _jobs(self) -> list[tuple[RunContext, int]]:
        """Return a job for each shard; none of them reads the source."""
        run = self.run.without_vectors()
        return [(run, s) for s in range(run.plan.n_shards)]

    def _search_across(self, advanced: Callable[[int, int], None]) -> list[SearchState]:
        """Let all shards search, then refine their lists as long as some gain by it, each on a worker of its own."""
        run, shards = self.run.without_vectors(), range(self.run.plan.n_shards)
        homes = assign_shards(len(shards), self.cluster.workers())
        try:
            efforts = self.cluster.run(nn_descent_rounds.probe_shard, self._jobs(), advanced, homes)
            while any(e.more for e in efforts):
                now = tuple(efforts)
                again = [s for s in shards if now[s].more]
                jobs = [(run, s, now) for s in again]
                refined = self.cluster.run(nn_descent_rounds.nn_descent_round, jobs, workers=[homes[s] for s in again])
                for s, effort in zip(again, refined, strict=True):
                    efforts[s] = effort
        finally:
            self.cluster.broadcast_best_effort(nn_descent_rounds.unload_shards, str(run.workspace))
        return efforts

    def _layout(self) -> tuple[list[Any], dict[str, Any]]:
        facts = optimize_layout(self.run.without_vectors(), self.cluster, self.workspace, self.emit, self._sight)
        return [], facts
