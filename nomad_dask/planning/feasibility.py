"""Refusal, before any work, of a plan that exceeds the memory, GPU memory or disk there is."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from nomad_dask.errors import ResourceError
from nomad_dask.planning.plan import MIN_SHARD_ROWS, Plan, StageResources
from nomad_dask.planning.resource_model import host_bytes_of_stages
from nomad_dask.utils.formatting import format_bytes


def check_resources(plan: Plan, memory_bytes: int, disk_free: int, gpu_bytes: int | None = None) -> None:
    """Refuse a plan that does not fit.

    Parameters
    ----------
    plan : Plan
    memory_bytes : int
        Memory of the smallest worker.
    disk_free : int
        Where the workspace is.
    gpu_bytes : int, optional
        Free GPU memory of the worker that has the least; None when it computes on CPUs.

    Raises
    ------
    ResourceError
        With the numbers, and the setting that lowers them.
    """
    if plan.worker_bytes > memory_bytes:
        stage = max(plan.stages, key=lambda s: s.host_bytes)
        raise ResourceError(
            f"The plan needs {format_bytes(plan.worker_bytes)} on each of its workers, in the stage {stage.name!r}; "
            f"the smallest has {format_bytes(memory_bytes)}: {_suggest_fit(plan, stage, memory_bytes)}."
        )
    if gpu_bytes is not None and plan.device_bytes > gpu_bytes:
        missing = plan.device_bytes - gpu_bytes
        raise ResourceError(
            f"The plan needs {format_bytes(plan.device_bytes)} of GPU memory on each of its workers, the one with the "
            f"least has {format_bytes(gpu_bytes)} free: {missing:,} bytes are missing. Use more workers with a GPU "
            "each and as many shards (n_shards), fewer neighbours (n_neighbors), free what other processes hold "
            "(nvidia-smi), or give device='cpu'."
        )
    if plan.disk_bytes > disk_free:
        raise ResourceError(
            f"The workspace needs {format_bytes(plan.disk_bytes)} of disk, {format_bytes(disk_free)} are free: "
            "give a workspace on a larger disk."
        )


def _suggest_fit(plan: Plan, stage: StageResources, memory_bytes: int) -> str:
    """Return the setting that makes a stage fit into the memory of a worker."""
    sizes, worker = plan.sizes, f"give each process {format_bytes(plan.worker_bytes)} (--memory, or fewer workers)"
    if sizes is None or stage.name not in ("neighbors", "layout"):
        return worker

    def fits(n_shards: int) -> bool:
        # Shards of one worker are searched one after another, and laid out side by side.
        n_workers = n_shards if stage.name == "layout" else sizes.n_workers
        needs = host_bytes_of_stages(replace(sizes, n_shards=n_shards, n_workers=n_workers))
        return needs[stage.name] <= memory_bytes

    counts = range(plan.n_shards + 1, max(plan.n_shards + 2, plan.n_rows // MIN_SHARD_ROWS))
    place = bisect_left(counts, True, key=fits)
    if place == len(counts):
        return worker
    n_shards = counts[place]
    besides = " and as many workers, with so much memory each" if stage.name == "layout" else ""
    return f"give n_shards={n_shards} (--shards {n_shards}){besides}, or fewer neighbours"
