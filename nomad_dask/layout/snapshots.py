"""Snapshots of some rows during the layout. They do not change the layout."""

from __future__ import annotations

import math
import time

import numpy as np

from nomad_dask.callbacks.events import LayoutSnapshot, SnapshotRequest
from nomad_dask.partition.shard_files import shard_file
from nomad_dask.planning.run_context import RunContext

# Snapshots may take about a twentieth of the time of the layout.
_COST = 20


def load_shard_rows(run: RunContext) -> list[np.ndarray]:
    """Return the input row numbers of each shard's rows, as memory maps."""
    return [np.load(run.file(shard_file(s, "rows")), mmap_mode="r") for s in range(run.plan.n_shards)]


def stratified_slices(sizes: list[int], max_points: int) -> tuple[slice, ...]:
    """Return the rows of each shard to show, `max_points` at most: equidistant rows, counted through all shards.

    Rows are sorted by cell, so every part of the map is represented in proportion to its rows.
    """
    step = max(1, math.ceil(sum(sizes) / max_points))
    first_rows = np.cumsum([0, *sizes[:-1]])
    return tuple(slice(int(-first % step), size, step) for first, size in zip(first_rows, sizes, strict=True))


class SnapshotSchedule:
    """Which rows are in the snapshots, and when the next snapshot is due.

    Parameters
    ----------
    run : RunContext
    snapshot_request : SnapshotRequest
    n_epochs : int
        Epochs of the layout.

    Attributes
    ----------
    slices : tuple of slice
        Rows of each shard to show.
    """

    def __init__(self, run: RunContext, snapshot_request: SnapshotRequest, n_epochs: int) -> None:
        shard_rows = load_shard_rows(run)
        self.slices = stratified_slices([len(rows) for rows in shard_rows], snapshot_request.max_points)
        self._interval, self._n_epochs, self._n_rows = snapshot_request.interval, n_epochs, run.plan.n_rows
        self._rows = np.concatenate(
            [rows[part] for rows, part in zip(shard_rows, self.slices, strict=True)], dtype=np.int64
        )
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether it is time for a snapshot."""
        return time.monotonic() >= self._next

    def make_snapshot(self, epoch: int, positions: list[np.ndarray], started: float) -> LayoutSnapshot:
        """Return a snapshot from the positions of each shard; `started` is the `time.monotonic` when it was begun."""
        now = time.monotonic()
        self._next = now + max(self._interval, _COST * (now - started))
        return LayoutSnapshot(epoch, self._n_epochs, self._n_rows, self._rows, np.concatenate(positions))
