"""A plan and what it needs as a text table."""

from __future__ import annotations

from collections.abc import Mapping

from nomad_dask.planning.resources import ResourceEstimate
from nomad_dask.utils.formatting import format_bytes, format_seconds


def format_plan(resources: ResourceEstimate, seconds: Mapping[str, float] | None = None) -> str:
    """Return a plan and what it needs as text for people.

    Parameters
    ----------
    resources : ResourceEstimate
    seconds : mapping of str to float, optional
        Estimated seconds of each stage.
    """
    plan = resources.plan
    rows = [
        ("rows × dimensions", f"{plan.n_rows:,} × {plan.n_dims:,}"),
        ("shards", f"{plan.n_shards:,}"),
        ("search batches", f"{plan.n_batches:,} per shard"),
        ("cells", f"{plan.n_cells:,} (about {plan.n_rows // max(plan.n_cells, 1):,} rows each)"),
        ("sample", f"{plan.sample_rows:,} rows, {plan.n_axes} axes"),
        ("coarse initialization", f"{plan.coarse_rows:,} rows" if plan.coarse_rows else "no"),
        ("rows per block", f"{plan.block_rows:,}"),
        ("memory per worker", format_bytes(resources.host_bytes)),
        ("GPU memory per worker", f"{format_bytes(resources.device_bytes)} (with --device gpu)"),
        ("disk of the workspace", format_bytes(resources.disk_bytes)),
    ]
    if seconds:
        rows.append(("estimated time", format_seconds(sum(seconds.values()))))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += ["", f"{'stage':<10} {'written':>10} {'memory':>10} {'GPU memory':>10} {'time':>10}".rstrip()]
    for stage in resources.stages:
        columns = [format_bytes(b) if b else "" for b in (stage.disk_bytes, stage.host_bytes, stage.device_bytes)]
        if seconds and stage.name in seconds:
            columns.append(format_seconds(seconds[stage.name]))
        lines.append(f"{stage.name:<10} {' '.join(f'{column:>10}' for column in columns)}".rstrip())
    return "\n".join(lines)
