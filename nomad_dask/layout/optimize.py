"""The layout stage on the client: batches of epochs on all shards, checkpoints and snapshots."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from nomad_dask.callbacks.events import Emit, SnapshotRequest
from nomad_dask.cluster import Cluster
from nomad_dask.layout.checkpoint_timer import CheckpointTimer
from nomad_dask.layout.distributed_layout import DistributedLayout, LayoutState
from nomad_dask.layout.interrupt import graceful_interrupt
from nomad_dask.layout.snapshots import SnapshotSchedule
from nomad_dask.layout.worker import unload_shards
from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.workspace import Workspace

# A checkpoint is written after this many seconds, but at least 50 times as long as the last one took.
_CHECKPOINT_SECONDS = 10.0
_CHECKPOINT_COST = 50
# The client receives results after about this many seconds of epochs. Workers exchange summaries among themselves.
_BATCH_SECONDS = 0.5


def optimize_layout(
    run: RunContext,
    cluster: Cluster,
    workspace: Workspace,
    emit: Emit,
    on_progress: Callable[[int, int], None],
    snapshot_request: SnapshotRequest | None = None,
) -> dict[str, Any]:
    """Lay out all shards, with their final state as a checkpoint.

    Parameters
    ----------
    run : RunContext
    cluster : Cluster
    workspace : Workspace
    emit : callable
        Receives the events.
    on_progress : callable
        Receives 0, as the layout counts as one task, and the number of epochs done.
    snapshot_request : SnapshotRequest, optional
        Which snapshots to emit; none by default.

    Returns
    -------
    dict
        Measurements.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C was pressed. After the first time, the running epochs finish and a checkpoint is written.
    """
    layout = DistributedLayout(run, cluster, workspace, emit, on_progress)
    n_epochs = layout.schedule.n_epochs
    snapshots = None if snapshot_request is None else SnapshotSchedule(run, snapshot_request, n_epochs)
    with graceful_interrupt() as interrupted:
        try:
            state = _run_to_end(layout, snapshots, interrupted)
            if snapshots is not None:
                layout.emit_snapshot(state, snapshots)
        finally:
            cluster.broadcast_best_effort(unload_shards, str(run.workspace))
    return {"epochs": n_epochs, "loss": state.loss, "exchanged_bytes_per_epoch": state.exchanged_bytes()}


def _run_to_end(
    layout: DistributedLayout, snapshots: SnapshotSchedule | None, interrupted: threading.Event
) -> LayoutState:
    """Run batches of epochs from the last checkpoint to the end of the schedule, or until interrupted."""
    state = layout.restore_checkpoint()
    timer = CheckpointTimer(_CHECKPOINT_SECONDS, _CHECKPOINT_COST)
    saved_epoch, batch_epochs = state.epoch, 1
    while state.epoch < layout.schedule.n_epochs:
        if snapshots is not None and snapshots.is_due():
            layout.emit_snapshot(state, snapshots)
        started = time.monotonic()
        state = layout.run_epochs(state, batch_epochs)
        batch_epochs = _next_batch_epochs(batch_epochs, time.monotonic() - started)
        must_save = state.epoch == layout.schedule.n_epochs or interrupted.is_set()
        if state.epoch > saved_epoch and (must_save or timer.is_due()):
            with timer.measure():
                state = layout.save_checkpoint(state)
            saved_epoch = state.epoch
        if interrupted.is_set():
            break
    return state


def _next_batch_epochs(n_epochs: int, seconds: float) -> int:
    """Return the epochs of the next batch, from the epochs and the duration of the last one."""
    return max(1, min(2 * n_epochs, math.ceil(n_epochs * _BATCH_SECONDS / max(seconds, 1e-6))))
