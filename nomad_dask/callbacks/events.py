"""The events that a run reports, for progress bars, logs and callbacks."""

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
    """The run is connected to its workers.

    Attributes
    ----------
    workers : int
        Number of workers.
    dashboard : str or None
        Address of the Dask dashboard, if there is one.
    device : str
        What the workers compute on, and what was found that decides it; empty if nothing was to decide.
    """

    workers: int
    dashboard: str | None
    device: str = ""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage starts.

    Attributes
    ----------
    stage : str
        Its name, such as ``"neighbors"``.
    total : int
        Number of units of work.
    unit : str
        Name of the units, such as ``"rows"`` or ``"epochs"``.
    """

    stage: str
    total: int
    unit: str


@dataclass(frozen=True)
class StageAdvanced(Event):
    """A stage has completed `done` of its units, counted from its start."""

    stage: str
    done: int


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage has ended after `seconds`; `resumed` is True if its artifacts were already in the workspace."""

    stage: str
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class ShardPlaced(Event):
    """The layout of a shard starts on a worker.

    Attributes
    ----------
    shard : int
    worker : str
        Address of the worker.
    device : str
        ``"CPU"``, or the GPU's number in CUDA_VISIBLE_DEVICES, name and UUID.
    rows : int
        Number of rows of the shard.
    """

    shard: int
    worker: str
    device: str
    rows: int = 0


@dataclass(frozen=True)
class EpochDone(Event):
    """One epoch of the layout is completed on every shard.

    Attributes
    ----------
    epoch, n_epochs : int
        Number of epochs completed, and in total.
    loss : float or None
        Mean loss per row, −Σ p log q / n + log(Z/n); None in epochs that do not compute it.
    exchanged_bytes : int
        Bytes of summaries that shards received after this epoch; in a joint layout, of positions and charges.
    """

    epoch: int
    n_epochs: int
    loss: float | None
    exchanged_bytes: int


@dataclass(frozen=True, eq=False)
class LayoutSnapshot(Event):
    """Positions of a sample of the rows during the layout, for listeners with a `SnapshotRequest`.

    The rows are the same throughout a run. They are evenly spaced in the order of the cells, so that each part of the
    map is represented in proportion to its rows.

    Attributes
    ----------
    epoch, n_epochs : int
        Number of epochs completed, and in total.
    n_rows : int
        Number of rows of the whole map.
    rows : ndarray of int64 (k,)
        Indices of the rows in the input.
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
    """A worker was lost; its shards resume on other workers from the last checkpoint."""

    address: str


@dataclass(frozen=True)
class Measured(Event):
    """A measured quantity, such as the recall of the neighbor search."""

    name: str
    value: float


Emit = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Do nothing."""


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
    """Return one listener that calls all `listeners`, in order."""
    targets = tuple(listeners)

    def emit(event: Event) -> None:
        for target in targets:
            target(event)

    return emit


def prefix_coarse_events(emit: Emit) -> Emit:
    """Return a listener that passes on the stages of the coarse map with the prefix "coarse" in their names."""

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
