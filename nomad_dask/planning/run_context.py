"""What every task of a run receives: the data, the parameters, the plan and the workspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nomad_dask.backends.select import has_joint_layouts
from nomad_dask.params import Params
from nomad_dask.planning.plan import Plan
from nomad_dask.sources.base import Source


@dataclass(frozen=True)
class RunContext:
    """One run; sent to the workers with every task.

    Attributes
    ----------
    source : Source
    params : Params
    plan : Plan
    workspace : Path
        Directory of the artifacts.
    device : {'cpu', 'gpu'}
    host_threads : int
        Threads of all workers of a host, for a task that runs alone on its host.
    """

    source: Source
    params: Params
    plan: Plan
    workspace: Path
    device: str
    host_threads: int = 0

    @property
    def shard_threads(self) -> int:
        """Argument of `worker_backend` for tasks of a shard: a single shard may use all threads of its host."""
        return self.host_threads if self.plan.n_shards == 1 else 0

    @property
    def wants_joint_layout(self) -> bool:
        """Whether the shards should be laid out jointly, as exactly as one shard; see `backends.joint`.

        Cell means and one normalizer per point have no joint layout, and it has an exchange after every epoch.
        """
        params = self.params
        is_joint_method = params.repulsion_method == "field" and params.normalization == "global"
        return self.plan.n_shards > 1 and params.sync_every == 1 and is_joint_method and has_joint_layouts(self.device)

    def without_vectors(self) -> RunContext:
        """Return the context with an empty source, for tasks that do not read it: a source may be large to pickle."""
        return replace(self, source=self.source.slice_rows(0, 0))

    def file(self, name: str) -> Path:
        """Return the path of an artifact."""
        return self.workspace / name
