"""The rescaling of a run: fitted to the sample and the range of all values, and applied to the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import RowFile
from nomad_dask.backends.value_range import ValueRange
from nomad_dask.cluster import Cluster
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.base import describe_rows
from nomad_dask.sources.rescaling import RescaledSource, Rescaling, choose_rescaling
from nomad_dask.sources.retry import with_retries

# First and last row of a block, and the range of its values.
BlockRange = tuple[tuple[int, int], ValueRange]

# Rows of the sample that decide.
_FITTED_ROWS = 2048
# Blocks that are read again to name their extreme rows, and rows that are named.
_SEARCHED_BLOCKS = 16
_NAMED_ROWS = 5


def fit_rescaling(run: RunContext, sample: Path, ranges: Sequence[ValueRange]) -> Rescaling:
    """Return the rescaling for a sample in the dtype of the source, and the ranges of all blocks."""
    whole = reduce(or_, ranges)
    if run.params.metric == "cosine":
        return Rescaling(np.zeros(run.plan.n_dims), unit_length=whole.directions_lost)
    file = RowFile.open(sample)
    step = max(1, run.plan.sample_rows // _FITTED_ROWS)
    return choose_rescaling(file.read_every(step, run.plan.sample_rows), whole.max_abs)


def extreme_rows(
    run: RunContext, cluster: Cluster, rescaling: Rescaling, ranges: Sequence[BlockRange]
) -> dict[str, Any]:
    """Return the number of rows that the rescaling shortens, and the first of them.

    Returns
    -------
    dict
        ``n_extreme_rows`` and ``extreme_rows``; empty if there are none. With many blocks of large values, only those
        with the largest are counted.
    """
    suspects = [(found.max_abs, block) for block, found in ranges if rescaling.may_be_extreme(found.max_abs)]
    largest = sorted(suspects, reverse=True)[:_SEARCHED_BLOCKS]
    jobs = [(replace(run, source=run.source.slice_rows(*block)), rescaling, *block) for _, block in largest]
    rows = sorted(row for found in cluster.run(_find_extreme, jobs) for row in found) if jobs else []
    return {"n_extreme_rows": len(rows), "extreme_rows": rows[:_NAMED_ROWS]} if rows else {}


def _find_extreme(run: RunContext, rescaling: Rescaling, start: int, stop: int) -> list[int]:
    """Return the numbers of the extreme rows in a block."""
    source = run.source
    rows = with_retries(lambda: source.read(start, stop), describe_rows(source, start, stop))
    return [int(row) for row in start + np.flatnonzero(rescaling.extreme(rows))]


def rescaled(run: RunContext) -> RunContext:
    """Return the run with its source rescaled, if its sample is."""
    rescaling = Rescaling.from_array(np.load(run.file("sample/rescaling.npy")))
    return run if rescaling.is_identity else replace(run, source=RescaledSource(run.source, rescaling))
