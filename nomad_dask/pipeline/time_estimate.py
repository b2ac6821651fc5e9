"""How long a run will take: a small run of the same data, timed on this machine and extrapolated."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from nomad_dask.errors import NomadWarning
from nomad_dask.layout.schedule import make_schedule
from nomad_dask.params import Params
from nomad_dask.pipeline.stage import Workload
from nomad_dask.pipeline.stages import stages_of_run
from nomad_dask.planning.plan import Plan
from nomad_dask.sources.base import Source

TIMED_ROWS = 8000
_EPOCHS = 10
# A row of a large map visits more cells of more memory than one of a small map: measured 1.3 to 2.
_OUT_OF_CACHE = 1.5
_OUT_OF_CACHE_GROWTH = 4


def estimate_seconds(source: Source, params: Params, plan: Plan, device: str = "auto") -> dict[str, float]:
    """Return the seconds that each stage will take on this machine, within a factor of about two.

    The first rows of the source are mapped twice, as many as take a second or two: the first time compiles all that is
    used. The seconds of each stage grow with its work, see `Stage.work`; those of the coarse map are the sum over all
    stages for the rows of the coarse map and its epochs.
    """
    n_timed = min(source.n_rows, TIMED_ROWS)
    timed = _time_small_run(source, params, n_timed, device)
    small = Workload(n_timed, _n_cells(n_timed, params), n_timed, _EPOCHS)

    def extrapolate(load: Workload) -> dict[str, float]:
        works = {stage.name: stage.work for stage in stages_of_run(has_coarse_map=False) if stage.work is not None}
        return {name: timed[name] * work(load) / work(small) for name, work in works.items()}

    def workload(n_rows: int, n_cells: int, sample_rows: int, n_epochs: int) -> Workload:
        slowdown = _OUT_OF_CACHE if n_rows / n_timed > _OUT_OF_CACHE_GROWTH else 1.0
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


def _time_small_run(source: Source, params: Params, n_rows: int, device: str) -> dict[str, float]:
    """Map the first rows of a source and return the seconds of each stage."""
    # Imported here: a run does not need an estimate.
    from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    rows = source.read(0, n_rows)
    init = "pca" if params.has_given_init else params.init
    small = params.replace(n_shards=1, n_cells=None, n_epochs=_EPOCHS, coarse_init="never", init=init)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="nomad-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadWarning)
        for name in ("first", "second"):
            seconds = project(
                open_source(rows),
                small,
                cluster=ClusterOptions(device=device),
                workspace=WorkspaceOptions(Path(folder) / name),
            ).seconds
    return seconds
