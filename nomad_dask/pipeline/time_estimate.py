"""How long a run will take: small runs of the same data, timed on this machine and extrapolated."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from nomad_dask.errors import NomadWarning
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.stage import Workload
from nomad_dask.pipeline.stages import stages_of_run
from nomad_dask.planning.plan import Plan
from nomad_dask.sources.base import Source

TIMED_ROWS = (8_000, 32_000)
"""Rows of the two runs that are timed: their difference tells the time of a row apart from that of any run."""
_EPOCHS = 10
# A row of a large map visits more cells of more memory than one of a small map: measured 1.3 to 2.
_OUT_OF_CACHE = 1.5
_OUT_OF_CACHE_GROWTH = 4

_TimedRun = tuple[Workload, dict[str, float]]
"""A run and the seconds of its stages."""


def estimate_seconds(source: Source, params: Params, plan: Plan, device: str = "auto") -> dict[str, float]:
    """Return the seconds that each stage will take on this machine, within a factor of about two.

    The first rows of the source are mapped, as many as take a few seconds. The seconds of each stage are those of any
    run, and more in proportion to its work, see `Stage.work`; those of the coarse map are the sum over all stages for
    the rows of the coarse map and its epochs.
    """
    small, large = _time_small_runs(source, params, device)
    largest_timed = large[0].n_rows

    def extrapolate(load: Workload) -> dict[str, float]:
        works = {stage.name: stage.work for stage in stages_of_run(has_coarse_map=False) if stage.work is not None}
        return {
            name: extrapolate_seconds((work(small[0]), small[1][name]), (work(large[0]), large[1][name]), work(load))
            for name, work in works.items()
        }

    def workload(n_rows: int, n_cells: int, sample_rows: int, n_epochs: int) -> Workload:
        slowdown = _OUT_OF_CACHE if n_rows / largest_timed > _OUT_OF_CACHE_GROWTH else 1.0
        return Workload(n_rows, n_cells, sample_rows, n_epochs, slowdown)

    coarse_rows = plan.coarse_rows
    n_epochs = make_schedule(params, plan.n_rows).n_epochs
    seconds = extrapolate(workload(plan.n_rows, plan.n_cells, plan.sample_rows, n_epochs))
    if not coarse_rows:
        return seconds
    coarse_epochs = make_schedule(params.replace(n_epochs=None, coarse_init="auto"), coarse_rows).n_epochs
    coarse_sample = min(coarse_rows, plan.sample_rows)
    coarse = extrapolate(workload(coarse_rows, _n_cells(coarse_rows, params), coarse_sample, coarse_epochs))
    of_stage = {
        stage.name: sum(coarse.values()) if stage.is_coarse else seconds.get(stage.name)
        for stage in stages_of_run(has_coarse_map=True)
    }
    return {name: value for name, value in of_stage.items() if value is not None}


def _n_cells(n_rows: int, params: Params) -> int:
    return max(1, round(n_rows / params.cell_size))


def extrapolate_seconds(small: tuple[float, float], large: tuple[float, float], work: float) -> float:
    """Return the seconds of some work, on the line through two measurements of work and seconds.

    Where the line does not ascend, because both took too short a time to measure, they grow in proportion to the work.
    """
    (small_work, small_seconds), (large_work, large_seconds) = small, large
    if small_seconds >= large_seconds or small_work >= large_work:
        return large_seconds * max(1.0, work / large_work)
    rate = (large_seconds - small_seconds) / (large_work - small_work)
    return max(large_seconds + rate * (work - large_work), 0.0)


def _time_small_runs(source: Source, params: Params, device: str) -> tuple[_TimedRun, _TimedRun]:
    """Map the first rows of a source, and more of them, after a run that compiles all that they use."""
    rows = source.read(0, min(source.n_rows, TIMED_ROWS[1]))
    small, large = (min(len(rows), n) for n in TIMED_ROWS)
    _time_run(rows[:small], params, device)
    first, second = (
        (Workload(n, _n_cells(n, params), n, _EPOCHS), _time_run(rows[:n], params, device)) for n in (small, large)
    )
    return first, second


def _time_run(rows: np.ndarray, params: Params, device: str) -> dict[str, float]:
    """Map rows, with few epochs, and return the seconds of each stage."""
    # Imported here: a run does not need an estimate.
    from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    init = "pca" if params.has_given_init else params.init
    few_epochs = params.replace(
        n_shards=1, n_cells=None, n_epochs=_EPOCHS, coarse_init="never", init=init, precomputed_knn=None
    )
    with tempfile.TemporaryDirectory(prefix="nomad-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadWarning)
        cluster, workspace = ClusterOptions(device=device), WorkspaceOptions(Path(folder) / "run")
        return project(open_source(rows), few_epochs, cluster=cluster, workspace=workspace).seconds
