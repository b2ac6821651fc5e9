"""How long a run will take: a small one of the same data, timed on this machine, and scaled by the laws of growth."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path

from nomad_dask.errors import NomadWarning
from nomad_dask.layout.schedule import schedule
from nomad_dask.params import Params
from nomad_dask.planning.plan import Plan
from nomad_dask.sources.base import Source

ROWS = 8000
_WARM_ROWS = 600
_EPOCHS = 10
# A row of a large map meets more cells of more memory than one of a small map: measured 1.3 to 2.
_OUT_OF_CACHE = 1.5


def estimate_seconds(source: Source, params: Params, plan: Plan, device: str = "auto") -> dict[str, float]:
    """Return the seconds that each stage will take on this machine, within a factor of about two.

    The first rows of the source are mapped, twice: a few to load what is compiled, then as many as take a second
    or two. From the seconds t of each stage with m rows, for n rows:

    - sample, shards: t·n/m, as every row is read, assigned and written once.
    - cells: t·(s/s')·(c/c'), s rows of the sample, c centroids a row meets: all of them up to 1,024, else twice
      the root of their number.
    - neighbors: t·n/m·1.5: a row meets as many rows of near cells, whatever the number of all rows.
    - layout: t·n/m·1.5·(epochs/10).
    - coarse: the sum of these for the rows of the coarse map and its epochs.
    """
    from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    m = min(source.n_rows, ROWS)
    rows = source.read(0, m)
    small = params.replace(n_shards=1, n_cells=None, n_epochs=_EPOCHS, coarse_init="never")
    with tempfile.TemporaryDirectory(prefix="nomad-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NomadWarning)
        for count in (min(m, _WARM_ROWS), m):
            timed = project(
                open_source(rows[:count]),
                small,
                cluster=ClusterOptions(device=device),
                workspace=WorkspaceOptions(Path(folder) / str(count)),
            ).seconds
    small_cells = max(1, round(m / params.cell_size))
    small_sample = m

    def stages_of(n: int, n_cells: int, sample_rows: int, epochs: int) -> dict[str, float]:
        growth = n / m
        slower = _OUT_OF_CACHE if growth > 4 else 1.0
        met = _centroids_met(n_cells) / _centroids_met(small_cells)
        return {
            "sample": timed["sample"] * growth,
            "cells": timed["cells"] * sample_rows / small_sample * met,
            "shards": timed["shards"] * growth,
            "neighbors": timed["neighbors"] * growth * slower,
            "layout": timed["layout"] * growth * slower * epochs / _EPOCHS,
        }

    coarse = plan.coarse_rows
    epochs = schedule(params, plan.n_rows, refining=coarse > 0).n_epochs
    found = stages_of(plan.n_rows, plan.n_cells, plan.sample_rows, epochs)
    if coarse:
        inner_epochs = schedule(params.replace(n_epochs=None), coarse, refining=False).n_epochs
        inner = stages_of(coarse, max(1, round(coarse / params.cell_size)), min(coarse, plan.sample_rows), inner_epochs)
        found = {"sample": found.pop("sample"), "coarse": sum(inner.values())} | found
    return found


def _centroids_met(n_cells: int) -> float:
    return n_cells if n_cells <= 1024 else 2 * math.sqrt(n_cells)
