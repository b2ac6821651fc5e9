"""What a stage is: one step of a run that reads and writes artifacts of the workspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.callbacks.events import Emit, SnapshotRequest, StageAdvanced
from nomad_dask.cluster import Cluster
from nomad_dask.pipeline.given_neighbors import GivenNeighbors
from nomad_dask.planning.resources import ResourceModel
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.manifest import Artifact
from nomad_dask.storage.workspace import Workspace


@dataclass(frozen=True)
class FinishedStages:
    """What a run through the stages leaves.

    Attributes
    ----------
    positions : ndarray of float32 (n_rows, n_components)
        In input order.
    cell_labels : ndarray of int32 (n_rows,)
    diagnostics : dict
        Measurements of all stages.
    seconds : dict
        Wall time of each stage in this process.
    """

    positions: np.ndarray
    cell_labels: np.ndarray
    diagnostics: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True)
class StageContext:
    """What a stage works with.

    Attributes
    ----------
    run : RunContext
    cluster : Cluster
    workspace : Workspace
    emit : callable
        Receives events.
    memory_bytes : int
        Memory of the smallest worker.
    keep_stages : bool
        Keep artifacts that no later stage reads.
    run_stages : callable
        Runs all stages of another context, for a stage that makes a map of its own.
    snapshot_request : SnapshotRequest, optional
        How often `emit` receives positions during the layout.
    given_positions : ndarray of float32 (n_rows, dim), optional
        Initial positions that the user gives.
    given_neighbors : GivenNeighbors, optional
        Neighbors that the user gives.
    """

    run: RunContext
    cluster: Cluster
    workspace: Workspace
    emit: Emit
    memory_bytes: int
    keep_stages: bool
    run_stages: Callable[[StageContext], FinishedStages]
    snapshot_request: SnapshotRequest | None = None
    given_positions: np.ndarray | None = None
    given_neighbors: GivenNeighbors | None = None

    def jobs(self) -> list[tuple[RunContext, int]]:
        """Return a job (context, shard) for each shard; the source is left out, as none of them reads it."""
        run = self.run.without_vectors()
        return [(run, shard) for shard in range(run.plan.n_shards)]

    def describe(self, names: list[str]) -> list[Artifact]:
        """Return size and checksum of artifacts that were just written."""
        return [self.workspace.describe(name) for name in names]

    def progress_of(self, stage: str) -> Callable[[int, int], None]:
        """Return a callback for (task, units done) that emits the sum over all tasks."""
        done: dict[int, int] = {}

        def on_progress(task: int, units: int) -> None:
            done[task] = units
            self.emit(StageAdvanced(stage, sum(done.values())))

        return on_progress


@dataclass(frozen=True)
class StageResult:
    """What a stage has made: its artifacts, and its measurements as values that JSON can represent."""

    artifacts: list[Artifact]
    facts: dict[str, Any]


StageFunction = Callable[[StageContext, Callable[[int, int], None]], StageResult]


@dataclass(frozen=True)
class Workload:
    """The numbers that the time of a stage is proportional to.

    Attributes
    ----------
    n_rows, n_cells, sample_rows, n_epochs : int
    slowdown : float
        Factor on stages whose memory accesses leave the caches with many rows.
    """

    n_rows: int
    n_cells: int
    sample_rows: int
    n_epochs: int
    slowdown: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages.

    Attributes
    ----------
    name : str
    writes : tuple of str
        Patterns of the files that it writes in the workspace.
    reads : tuple of str
        Patterns of the artifacts that it reads.
    resources : ResourceModel
        Memory and disk that it needs.
    total : callable
        Units of work for a run, as progress bars count them.
    unit : str
        What is counted: ``"rows"`` or ``"epochs"``.
    function : callable, optional
        Makes the artifacts from a context and a callback for (task, units done). None for map and model, which are
        written outside the workspace.
    work : callable, optional
        What its time is proportional to. None for a stage that is not timed, or is timed by the stages inside it.
    reads_source : bool
        Whether its tasks read vectors from the source.
    is_coarse : bool
        Whether it makes the coarse map, by running all stages on some of the rows. Runs without a coarse map skip it.
    is_model : bool
        Whether only runs that write a model have it.
    start_reads, coarse_start_reads : tuple of str
        For a stage with checkpoints: patterns of the artifacts that it reads until its first checkpoint, without and
        with a coarse map.
    """

    name: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    resources: ResourceModel
    total: Callable[[RunContext], int]
    unit: str = "rows"
    function: StageFunction | None = None
    work: Callable[[Workload], float] | None = None
    reads_source: bool = False
    is_coarse: bool = False
    is_model: bool = False
    start_reads: tuple[str, ...] = ()
    coarse_start_reads: tuple[str, ...] = ()

    @property
    def has_checkpoints(self) -> bool:
        """Whether the stage resumes from a checkpoint."""
        return bool(self.start_reads)
