"""Principal axes of the sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import PrincipalAxes
from nomad_dask.backends.row_reader import RowFile, to_float32
from nomad_dask.planning.run_context import RunContext

_AXES_ROWS = 10_000
# A multiple of what the backends process at once, so that blocks round like the whole sample.
_BLOCK_ROWS = 1 << 15


def read_blocks(sample: RowFile, n_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the vectors of each block of the first `n_rows` of the sample."""
    for start in range(0, n_rows, _BLOCK_ROWS):
        yield start, sample.read(start, min(start + _BLOCK_ROWS, n_rows))


def fit_axes(run: RunContext, backend: Backend, sample: RowFile) -> PrincipalAxes:
    """Fit the principal axes to evenly spaced rows of the sample."""
    plan, params = run.plan, run.params
    step = max(1, plan.sample_rows // _AXES_ROWS)
    rows = np.concatenate(
        [block[-start % step :: step].copy() for start, block in read_blocks(sample, plan.sample_rows)]
    )
    return backend.fit_axes(to_float32(rows, params.metric), max(plan.n_axes, params.n_components), params.random_state)
