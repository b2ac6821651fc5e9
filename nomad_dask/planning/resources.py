"""What the stages of a run need of memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nomad_dask.planning.plan import Plan


@dataclass(frozen=True)
class ResourceModel:
    """Memory and disk of a stage as functions of the plan.

    Attributes
    ----------
    host_bytes : callable
        Peak memory of a process.
    disk_bytes : callable
        Bytes that the stage writes.
    kept_disk_bytes : callable, optional
        Bytes of them that remain when the stage is done; all of them by default.
    device_bytes : callable, optional
        Peak GPU memory of a worker; None where the stage works with what is left.
    smaller_by : {'shards', 'shards and workers'}, optional
        What makes `host_bytes` smaller: shards that a worker processes one after another, or shards on workers of
        their own. None where neither does.
    """

    host_bytes: Callable[[Plan], int]
    disk_bytes: Callable[[Plan], int]
    kept_disk_bytes: Callable[[Plan], int] | None = None
    device_bytes: Callable[[Plan], int] | None = None
    smaller_by: Literal["shards", "shards and workers"] | None = None


@dataclass(frozen=True)
class StageResources:
    """What one stage needs.

    Attributes
    ----------
    name : str
    disk_bytes : int
        Bytes that it writes.
    host_bytes : int
        Peak memory of a process in it.
    device_bytes : int
        Peak GPU memory of a worker in it, if it computes on one.
    """

    name: str
    disk_bytes: int
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True)
class ResourceEstimate:
    """What a run needs.

    Attributes
    ----------
    plan : Plan
    models : mapping of str to ResourceModel
        Model of each stage, by name.
    stages : tuple of StageResources
    disk_bytes : int
        Peak size of the workspace.
    """

    plan: Plan
    models: Mapping[str, ResourceModel] = field(repr=False)
    stages: tuple[StageResources, ...]
    disk_bytes: int

    @property
    def host_bytes(self) -> int:
        """Peak memory of a worker."""
        return max(stage.host_bytes for stage in self.stages)

    @property
    def device_bytes(self) -> int:
        """Peak GPU memory of a worker, if it computes on one."""
        return max(stage.device_bytes for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan and what it needs by name, for JSON."""
        return self.plan.as_dict() | {
            "worker_bytes": self.host_bytes,
            "disk_bytes": self.disk_bytes,
            "device_bytes": self.device_bytes,
            "stages": [asdict(stage) for stage in self.stages],
        }
