"""Which rows of the layout are shown while it goes on, and when: nothing of it changes what the layout does."""

from __future__ import annotations

import math
import time

import numpy as np

from nomad_dask.callbacks.events import LayoutSnapshot, SnapshotRequest
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext

# Looks may take a twentieth of the time of the layout.
_COST = 20


def rows_of_shards(run: RunContext) -> list[np.ndarray]:
    """Return the numbers in the input of each shard's rows, left on disk."""
    return [np.load(run.file(shard_file(s, "rows")), mmap_mode="r") for s in range(run.plan.n_shards)]


def stratified_slices(sizes: list[int], most: int) -> tuple[slice, ...]:
    """Return of each shard the rows to show: every so many-th of all, counted through the shards, at most `most`.

    Rows are sorted by cell, so every part of the map is shown in proportion to its rows.
    """
    step = max(1, math.ceil(sum(sizes) / most))
    begins = np.cumsum([0, *sizes[:-1]])
    return tuple(slice(int(-begin % step), size, step) for begin, size in zip(begins, sizes, strict=True))


class SnapshotSchedule:
    """The looks at the layout that listeners have asked for.

    Parameters
    ----------
    run : Run
    snapshot_request : Sight
    n_epochs : int
        Of the layout.

    Attributes
    ----------
    parts : tuple of slice
        Of each shard the rows to show.
    """

    def __init__(self, run: RunContext, snapshot_request: SnapshotRequest, n_epochs: int) -> None:
        numbers = rows_of_shards(run)
        self.parts = stratified_slices([len(rows) for rows in numbers], snapshot_request.max_points)
        self._interval, self._n_epochs, self._n_rows = snapshot_request.interval, n_epochs, run.plan.n_rows
        self._rows = np.concatenate(
            [rows[part] for rows, part in zip(numbers, self.parts, strict=True)], dtype=np.int64
        )
        self._next = 0.0

    def due(self) -> bool:
        """Return whether it is time for one."""
        return time.monotonic() >= self._next

    def seen(self, epoch: int, positions: list[np.ndarray], began: float) -> LayoutSnapshot:
        """Return what was seen in a look that began at a time of `time.monotonic`."""
        now = time.monotonic()
        self._next = now + max(self._interval, _COST * (now - began))
        return LayoutSnapshot(epoch, self._n_epochs, self._n_rows, self._rows, np.concatenate(positions))
