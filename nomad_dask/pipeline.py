"""The stages in order: sample, coarse map, cells, shards, neighbours, layout, gather."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask import __version__
from nomad_dask.cluster import Cluster, connect
from nomad_dask.errors import InputError, Interrupted, WorkspaceError
from nomad_dask.events import (
    CheckpointWritten,
    Emit,
    EpochDone,
    Event,
    Measured,
    ShardPlaced,
    StageAdvanced,
    StageFinished,
    StageStarted,
)
from nomad_dask.layout.driver import lay_out, positions_of
from nomad_dask.maps import check_kept, write_map
from nomad_dask.neighbors import shard as neighbors
from nomad_dask.neighbors.halo import all_cells
from nomad_dask.params import Params
from nomad_dask.partition import cells as cells_module
from nomad_dask.partition import exchange, sample
from nomad_dask.plan import Plan, Run, check_fits, make_plan
from nomad_dask.sources.base import Source
from nomad_dask.sources.npy import NpySource, staged
from nomad_dask.workspace import MANIFEST, Workspace

_COARSE_PRESET = {"fast": "default", "default": "best", "best": "best"}


@dataclass(frozen=True)
class Result:
    """A finished map.

    Attributes
    ----------
    positions : ndarray of float32 (n, n_components)
        In input order.
    cells : ndarray of int32 (n,)
        K-Means cell of each row.
    diagnostics : dict
        What was measured on the way: recall, imbalance, loss, bytes exchanged.
    seconds : dict
        Wall time by stage.
    map_path : Path or None
        The file written, if one was asked for.
    """

    positions: np.ndarray
    cells: np.ndarray
    diagnostics: dict[str, Any]
    seconds: dict[str, float]
    map_path: Path | None


def _no_listener(event: Event) -> None:
    """Hear nothing."""


def project(
    source: Source,
    params: Params,
    *,
    output: Path | None = None,
    keep: Sequence[str] = (),
    workspace: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    client: Any = None,
    scheduler: str | None = None,
    n_workers: int | None = None,
    device: str = "auto",
    emit: Emit = _no_listener,
) -> Result:
    """Make a map of a source.

    Parameters
    ----------
    source : Source
    params : Params
    output : Path, optional
        Parquet file to write the map to.
    keep : sequence of str
        Columns of the source to carry to the map.
    workspace : Path, optional
        Directory of the artifacts, kept afterwards; one that holds this same run is taken up where it
        stopped. None takes ``OUTPUT.nomad``, or a temporary directory, removed when the map is done.
    resume : bool
        Fail when there is nothing to take up.
    overwrite : bool
        Replace an existing output, and a workspace of another run.
    client : distributed.Client, optional
    scheduler : str, optional
        Address of a running Dask scheduler.
    n_workers : int, optional
        Workers of the embedded cluster, when neither client nor scheduler is given.
    device : {'auto', 'cpu', 'gpu'}
    emit : callable
        Told every event.

    Raises
    ------
    InputError, MissingInputError, WorkspaceError, ClusterError, ResourceError
        Before the work starts, where that can be known.
    Interrupted
        The user stopped it; the workspace can be taken up again.
    """
    check_kept(keep)
    if output is not None:
        check_output(output, overwrite)
    temporary = None
    if workspace is None:
        if output is not None:
            workspace = output.with_name(output.name + ".nomad")
        else:
            workspace = temporary = Path(tempfile.mkdtemp(prefix="nomad-"))
    if resume and not (workspace / MANIFEST).exists():
        raise WorkspaceError(f"There is nothing to resume in {workspace}: leave --resume out to start.")
    own_place = output is not None and workspace == output.with_name(output.name + ".nomad")
    try:
        with connect(client, scheduler, n_workers, device, here=not source.shareable) as cluster:
            workers = cluster.workers()
            memory = min(w.memory_bytes for w in workers)
            plan = make_plan(source, params, len(workers), memory)
            home = _open_workspace(workspace, source, params, plan, overwrite)
            check_fits(plan, memory, shutil.disk_usage(home.path).free, cluster.gpu_bytes())
            if not source.shareable and not cluster.in_process:
                source = staged(source, home.path / "input.npy", plan.block_rows)
            run = Run(source, params, plan, home.path, cluster.device)
            stages = _Stages(run, cluster, home, emit)
            positions, cells = stages.all()
    except KeyboardInterrupt as stop:
        kept = f" What was done is kept in {workspace}." if temporary is None and workspace.exists() else ""
        raise Interrupted(f"Stopped.{kept}") from stop
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    if output is not None:
        metadata = {
            "version": __version__,
            "params": params.as_dict(),
            "source": {"name": source.name, "fingerprint": source.fingerprint(), "rows": source.n_rows},
            "diagnostics": stages.diagnostics,
        }
        write_map(output, positions, cells, source, keep, metadata)
    if own_place:
        shutil.rmtree(workspace, ignore_errors=True)
    return Result(positions, cells, stages.diagnostics, stages.seconds, output)


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
        raise InputError(f"The directory {str(parent)!r} of the output does not exist: make it first.")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"The output {str(output)!r} cannot be written ({error}): give another directory.") from error


def _open_workspace(path: Path, source: Source, params: Params, plan: Plan, overwrite: bool) -> Workspace:
    identity = {
        "source": source.fingerprint(),
        "shape": [source.n_rows, source.n_dims],
        "params": params.as_dict(),
        "shards": plan.n_shards,
    }
    try:
        return Workspace(path, identity)
    except WorkspaceError:
        if not overwrite or not (path / MANIFEST).exists():
            raise
        shutil.rmtree(path)
        return Workspace(path, identity)
    except OSError as error:
        raise InputError(f"The workspace {str(path)!r} cannot be made ({error}): give another directory.") from error


class _Stages:
    """The stages of one run; each is skipped when the workspace holds what it makes."""

    def __init__(self, run: Run, cluster: Cluster, workspace: Workspace, emit: Emit) -> None:
        self.run, self.cluster, self.workspace, self.emit = run, cluster, workspace, emit
        self.diagnostics: dict[str, Any] = {"n_shards": run.plan.n_shards}
        self.seconds: dict[str, float] = {}

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Run them and return positions and cells of all rows in input order."""
        n = self.run.plan.n_rows
        self._stage("sample", n, self._sample)
        if self.run.plan.coarse_rows:
            self._stage("coarse", self.run.plan.coarse_rows, self._coarse)
        self._stage("cells", self.run.plan.sample_rows, self._cells)
        self._stage("shards", n, self._shards)
        self._stage("neighbors", n, self._neighbors)
        self._stage("layout", None, self._layout)
        return self._gather()

    def _stage(self, name: str, total: int | None, work: Callable[[], tuple[list[Any], dict[str, Any]]]) -> None:
        started = time.monotonic()
        facts = self.workspace.facts(name)
        resumed = facts is not None
        if facts is None:
            if total is not None:
                self.emit(StageStarted(name, total, "rows"))
            artifacts, facts = work()
            self.workspace.record(name, artifacts, **facts)
        self.seconds[name] = time.monotonic() - started
        self.diagnostics |= facts
        for figure, value in facts.items():
            if isinstance(value, float):
                self.emit(Measured(figure, value))
        self.emit(StageFinished(name, self.seconds[name], resumed))

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        """Return a listener that adds up what the tasks of a stage report."""
        done: dict[int, int] = {}

        def advanced(task: int, units: int) -> None:
            done[task] = units
            self.emit(StageAdvanced(stage, sum(done.values())))

        return advanced

    def _sample(self) -> tuple[list[Any], dict[str, Any]]:
        names = sample.draw(self.run, self.cluster, self._progress("sample"))
        return [self.workspace.describe(n) for n in names], {}

    def _coarse(self) -> tuple[list[Any], dict[str, Any]]:
        """Lay out a random part of the sample as one shard, by the same stages."""
        rows = np.load(self.run.file("sample/rows.npy"))
        vectors = np.load(self.run.file("sample/vectors.npy"), mmap_mode="r")
        rng = np.random.default_rng([self.run.params.seed, 3])
        part = np.sort(rng.choice(len(rows), self.run.plan.coarse_rows, replace=False))
        self.workspace.save("coarse/rows.npy", rows[part])
        self.workspace.save("coarse/vectors.npy", vectors[part])
        source = NpySource(self.run.file("coarse/vectors.npy"))
        preset = _COARSE_PRESET[self.run.params.preset]
        params = self.run.params.replace(
            n_shards=1,
            n_cells=None,
            n_epochs=None,
            learning_rate=None,
            momentum=None,
            preset=preset,
            coarse="auto",
        )
        workers = self.cluster.workers()
        plan = make_plan(source, params, 1, min(w.memory_bytes for w in workers))
        place = self.run.file("coarse/run")
        home = _open_workspace(place, source, params, plan, overwrite=True)
        run = Run(source, params, plan, place, self.run.device)
        inner = _Stages(run, self.cluster, home, _renamed(self.emit))
        positions, _ = inner.all()
        self.workspace.save("coarse/positions.npy", positions)
        self.workspace.remove("coarse/run")
        names = ("coarse/rows.npy", "coarse/positions.npy")
        return [self.workspace.describe(n) for n in names], {}

    def _cells(self) -> tuple[list[Any], dict[str, Any]]:
        (names,) = self.cluster.run(cells_module.make, [(self.run,)])
        return [self.workspace.describe(n) for n in names], {}

    def _shards(self) -> tuple[list[Any], dict[str, Any]]:
        exchange.write_blocks(self.run, self.cluster, self._progress("shards"))
        jobs = [(self.run, s) for s in range(self.run.plan.n_shards)]
        made = self.cluster.run(exchange.merge_shard, jobs)
        self.workspace.remove("exchange")
        cells = all_cells(self.run)
        sizes = [cells.counts[a:b].sum() for a, b in zip(cells.edges[:-1], cells.edges[1:], strict=True)]
        facts = {
            "n_cells": len(cells.counts),
            "largest_cell": int(cells.counts.max()),
            "imbalance": float(max(sizes) / np.mean(sizes)),
        }
        return [a for artifacts in made for a in artifacts], facts

    def _neighbors(self) -> tuple[list[Any], dict[str, Any]]:
        jobs = [(self.run, s) for s in range(self.run.plan.n_shards)]
        answers = self.cluster.run(neighbors.find, jobs, self._progress("neighbors"))
        patches = self.cluster.run(neighbors.patch, jobs)
        links = self.cluster.run(neighbors.link, jobs)
        rows = [facts["rows"] for _, facts in answers]

        def mean(figure: str) -> float:
            return float(np.average([facts[figure] for _, facts in answers], weights=rows))

        facts = {
            "recall": mean("recall"),
            "n_probes": mean("n_probes"),
            "rounds": mean("rounds"),
            "foreign_share": mean("foreign_share"),
            "edges": sum(facts["edges"] for _, facts in answers),
        }
        return [a for artifacts in (*[made for made, _ in answers], *patches, *links) for a in artifacts], facts

    def _layout(self) -> tuple[list[Any], dict[str, Any]]:
        facts = lay_out(self.run, self.cluster, self.workspace, self.emit)
        return [], facts

    def _gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and cells in input order."""
        run = self.run
        positions = np.empty((run.plan.n_rows, run.params.n_components), np.float32)
        cells = np.empty(run.plan.n_rows, np.int32)
        epoch = self.diagnostics["epochs"]
        edges = all_cells(run).edges
        for s in range(run.plan.n_shards):
            rows = np.load(run.file(exchange.shard_file(s, "rows")))
            offsets = np.load(run.file(exchange.shard_file(s, "cell_offsets")))
            positions[rows] = positions_of(run, epoch, s)
            cells[rows] = np.repeat(np.arange(edges[s], edges[s + 1]), np.diff(offsets))
        return positions, cells


def _renamed(emit: Emit) -> Emit:
    """Return a listener that tells the stages of the coarse map by other names than those of the whole."""

    def inner(event: Event) -> None:
        if isinstance(event, StageStarted):
            emit(StageStarted(f"coarse {event.stage}", event.total, event.unit))
        elif isinstance(event, StageAdvanced):
            emit(StageAdvanced(f"coarse {event.stage}", event.done))
        elif isinstance(event, StageFinished):
            emit(StageFinished(f"coarse {event.stage}", event.seconds, event.resumed))
        elif not isinstance(event, (EpochDone, CheckpointWritten, Measured, ShardPlaced)):
            emit(event)

    return inner
