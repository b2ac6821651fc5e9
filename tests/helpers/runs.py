"""Short ways to data and to maps of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from nomad_dask.callbacks import Event
from nomad_dask.cluster import Cluster
from nomad_dask.params import Params
from nomad_dask.pipeline.collect import Layout
from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
from nomad_dask.pipeline.run import project
from nomad_dask.planning.plan import Plan
from nomad_dask.sources import open_source

# Commands and workers are forked from a process that has imported it.
WARM = "tests.helpers.warm"


def blobs(n: int, n_dims: int = 20, n_blobs: int = 8, seed: int = 0) -> np.ndarray:
    """Rows around a few centers, float32."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(n_blobs, n_dims))
    return (centers[rng.integers(n_blobs, size=n)] + rng.normal(size=(n, n_dims))).astype(np.float32)


def make_map(x: Any, **settings: Any) -> Layout:
    """Run the pipeline; settings are those of `Params`, of the options of `project`, and of `project` itself.

    `workspace`, `output`, `picture` and `model` are paths; `overwrite` is for both.
    """

    def take(names: Any) -> dict[str, Any]:
        return {name: settings.pop(name) for name in list(settings) if name in names}

    params, overwrite = take(Params.describe()), take(["overwrite"])
    cluster = ClusterOptions(**take(ClusterOptions.__dataclass_fields__))
    workspace = WorkspaceOptions(settings.pop("workspace", None), **take(["resume", "keep_stages"]), **overwrite)
    output = OutputOptions(settings.pop("output", None), **take(["metadata_columns", "picture", "model"]), **overwrite)
    return project(open_source(x), Params(**params), cluster=cluster, workspace=workspace, output=output, **settings)


@contextmanager
def in_batches(n_batches: int, region_rows: int = 0) -> Iterator[None]:
    """Let every plan divide its shards into as many search batches, as those do that lack memory.

    These are divided further while they have more than `region_rows` rows with their halos, if that is not 0.
    """
    from nomad_dask.planning import planner

    with_batches = planner._with_batches

    def divided(plan: Plan, memory_bytes: int) -> Plan:
        return replace(with_batches(plan, memory_bytes), n_batches=n_batches, region_rows=region_rows)

    planner._with_batches = divided
    try:
        yield
    finally:
        planner._with_batches = with_batches


class EventLog(list[Event]):
    """A callback that records all events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type) -> list[Any]:
        """Return the events of one type."""
        return [event for event in self if isinstance(event, kind)]


class CtrlC:
    """A callback that sends this process the signal of Ctrl-C, once."""

    def __init__(self, kind: type[Event], times: int = 1) -> None:
        self.kind, self.times = kind, times

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.kind) and self.times:
            self.times -= 1
            os.kill(os.getpid(), signal.SIGINT)


def cluster_of(client: Any) -> Cluster:
    """Return the cluster of a client, with the plugin that tasks need on its workers."""
    from nomad_dask.cluster.worker_plugin import register_plugin

    register_plugin(client)
    return Cluster(client, in_process=False)


@contextmanager
def worker_processes(n: int, **more: Any) -> Iterator[Any]:
    """Give a client of a cluster of processes, one thread each.

    They are forked from a process that has imported what they need, which spares seconds for each.
    """
    import dask.config
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    settings = {
        # Or Dask closes the nanny of a worker that is gone again 15 s after it was lost.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.multiprocessing-method": "forkserver",
    }
    with dask.config.set(settings):
        get_mp_context().set_forkserver_preload([WARM])
        with (
            LocalCluster(
                n_workers=n, threads_per_worker=1, processes=True, host="127.0.0.1",
                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
                # Forked processes have the environment that was there when the first of them was started.
                memory_limit="2GiB", silence_logs=50, env=dict(os.environ), **more,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            yield client
