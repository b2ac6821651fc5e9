"""Refusal, before any work, of a plan that exceeds the memory, GPU memory or disk there is."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from nomad_dask.errors import ResourceError
from nomad_dask.planning.resources import ResourceEstimate
from nomad_dask.utils.formatting import format_bytes

# More shards than of this many rows are not suggested.
_MIN_SHARD_ROWS = 10_000


def check_resources(
    resources: ResourceEstimate, memory_bytes: int, disk_free: int, gpu_bytes: int | None = None
) -> None:
    """Refuse a plan that does not fit.

    Parameters
    ----------
    resources : ResourceEstimate
    memory_bytes : int
        Memory of the smallest worker.
    disk_free : int
        Free disk space where the workspace is.
    gpu_bytes : int, optional
        Free GPU memory of the worker that has least; None when it computes on CPUs.

    Raises
    ------
    ResourceError
        With the numbers, and the setting that lowers them.
    """
    if resources.host_bytes > memory_bytes:
        stage = max(resources.stages, key=lambda s: s.host_bytes).name
        raise ResourceError(
            f"The plan needs {format_bytes(resources.host_bytes)} on each of its workers, in the stage {stage!r}; "
            f"the smallest has {format_bytes(memory_bytes)}: {_suggest_fit(resources, stage, memory_bytes)}."
        )
    if gpu_bytes is not None and resources.device_bytes > gpu_bytes:
        missing = resources.device_bytes - gpu_bytes
        raise ResourceError(
            f"The plan needs {format_bytes(resources.device_bytes)} of GPU memory on each of its workers, the one with "
            f"the least has {format_bytes(gpu_bytes)} free: {missing:,} bytes are missing. Use more workers with a GPU "
            "each and as many shards (n_shards), fewer neighbors (n_neighbors), free what other processes hold "
            "(nvidia-smi), or give device='cpu'."
        )
    if resources.disk_bytes > disk_free:
        raise ResourceError(
            f"The workspace needs {format_bytes(resources.disk_bytes)} of disk, {format_bytes(disk_free)} are free: "
            "give a workspace on a larger disk."
        )


def _suggest_fit(resources: ResourceEstimate, stage: str, memory_bytes: int) -> str:
    """Return the setting that makes a stage fit into the memory of a worker."""
    plan, model = resources.plan, resources.models[stage]
    more_memory = f"give each process {format_bytes(resources.host_bytes)} (--memory-limit, or fewer workers)"
    if model.smaller_by is None:
        return more_memory

    def fits(n_shards: int) -> bool:
        n_workers = n_shards if model.smaller_by == "shards and workers" else plan.n_workers
        return model.host_bytes(replace(plan, n_shards=n_shards, n_workers=n_workers)) <= memory_bytes

    counts = range(plan.n_shards + 1, max(plan.n_shards + 2, plan.n_rows // _MIN_SHARD_ROWS))
    first_that_fits = bisect_left(counts, True, key=fits)
    if first_that_fits == len(counts):
        return more_memory
    n_shards = counts[first_that_fits]
    workers = " and as many workers, with as much memory each" if model.smaller_by == "shards and workers" else ""
    return f"give n_shards={n_shards} (--n-shards {n_shards}){workers}, or fewer neighbors"
