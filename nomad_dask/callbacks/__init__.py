"""What a run reports while it runs: typed events, progress bars, the live map.

Every function in `callbacks` of `nomad_dask.NomadProjection` is called with each `Event` of a run.
"""

from nomad_dask.callbacks.events import (
    CheckpointWritten,
    ClusterJoined,
    Emit,
    EpochDone,
    Event,
    LayoutSnapshot,
    Measured,
    ShardPlaced,
    SnapshotRequest,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
)

__all__ = [
    "CheckpointWritten",
    "ClusterJoined",
    "Emit",
    "EpochDone",
    "Event",
    "LayoutSnapshot",
    "Measured",
    "ShardPlaced",
    "SnapshotRequest",
    "StageAdvanced",
    "StageFinished",
    "StageStarted",
    "WorkerLost",
]
