"""What a run tells while it goes on: typed events. Progress bars, logs and callbacks listen to these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class ClusterJoined(Event):
    """The run has its workers.

    Attributes
    ----------
    workers : int
        How many there are.
    dashboard : str or None
        Address of Dask's dashboard, where there is one.
    """

    workers: int
    dashboard: str | None


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins.

    Attributes
    ----------
    stage : str
        Its name, such as ``"neighbors"``.
    total : int
        Units of work in it.
    unit : str
        What is counted: ``"rows"``, ``"epochs"``.
    """

    stage: str
    total: int
    unit: str


@dataclass(frozen=True)
class StageAdvanced(Event):
    """A stage has done `done` of its units, counted from its beginning."""

    stage: str
    done: int


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage has ended after `seconds`; `resumed` tells that its artifacts were there already."""

    stage: str
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class ShardPlaced(Event):
    """The layout of a shard begins.

    Attributes
    ----------
    shard : int
    worker : str
        Address of the worker that lays it out.
    device : str
        ``"CPU"``, or the GPU's number in CUDA_VISIBLE_DEVICES, name and UUID.
    rows : int
        Rows of the shard.
    """

    shard: int
    worker: str
    device: str
    rows: int = 0


@dataclass(frozen=True)
class EpochDone(Event):
    """One epoch of the layout is done on every shard.

    Attributes
    ----------
    epoch, n_epochs : int
        Epochs done so far, and in all.
    loss : float or None
        Mean loss per row (algorithm: −Σ p log q / n + log(Z/n)); None in epochs that do not measure it.
    exchanged_bytes : int
        Bytes of cell summaries sent to and from the shards in this epoch.
    """

    epoch: int
    n_epochs: int
    loss: float | None
    exchanged_bytes: int


@dataclass(frozen=True, eq=False)
class LayoutSnapshot(Event):
    """Where some rows are during the layout; told only when a listener asks for it, see `SnapshotRequest`.

    The rows are the same throughout a run: every so many-th of the rows in the order of their cells, so that each
    part of the map has its share.

    Attributes
    ----------
    epoch, n_epochs : int
        Epochs done so far, and in all.
    n_rows : int
        Rows of the whole map.
    rows : ndarray of int64 (k,)
        Numbers of the rows in the input.
    positions : ndarray of float32 (k, n_components)
    """

    epoch: int
    n_epochs: int
    n_rows: int
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class CheckpointWritten(Event):
    """The layout after `epoch` epochs is on disk."""

    epoch: int


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker went away; its shards are taken up elsewhere from the last checkpoint."""

    address: str


@dataclass(frozen=True)
class Measured(Event):
    """A figure worth reporting, such as the recall of the neighbour search."""

    name: str
    value: float


Emit = Callable[[Event], None]


@dataclass(frozen=True)
class SnapshotRequest:
    """Asks for snapshots of the layout: the value of a listener's attribute `snapshot_request`; None for no snapshots.

    Attributes
    ----------
    interval : float
        Minimum number of seconds between two `LayoutSnapshot` events.
    max_points : int
        Maximum number of rows in a snapshot.
    """

    interval: float
    max_points: int


def combined_snapshot_request(listeners: Iterable[Emit]) -> SnapshotRequest | None:
    """Return one request that covers the requests of all listeners; None when no listener asks for snapshots."""
    attributes = [getattr(listener, "snapshot_request", None) for listener in listeners]
    requests = [request for request in attributes if isinstance(request, SnapshotRequest)]
    if not requests:
        return None
    return SnapshotRequest(min(r.interval for r in requests), max(r.max_points for r in requests))


def fan_out(listeners: Iterable[Emit]) -> Emit:
    """Return one listener that tells all `listeners`, in order."""
    all_of_them = tuple(listeners)

    def emit(event: Event) -> None:
        for listener in all_of_them:
            listener(event)

    return emit


def prefix_coarse_events(emit: Emit) -> Emit:
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
