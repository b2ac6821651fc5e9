"""The status of a run as text."""

from __future__ import annotations

from nomad_dask.pipeline.status import Status
from nomad_dask.utils.formatting import format_bytes


def format_status(status: Status) -> str:
    """Return a status as text for people."""
    owner = f" by {status.lock_owner}" if status.lock_owner else ""
    settings = ", ".join(f"{name}={value!r}" for name, value in status.params.items())
    lines = [
        f"workspace  {status.workspace} ({format_bytes(status.disk_bytes)})",
        f"source     {status.source}: {status.n_rows:,} rows × {status.n_dims:,} dimensions",
        f"run        {status.state}{owner}, {status.n_shards} shard{'s' if status.n_shards > 1 else ''}, "
        f"nomad-dask {status.version}",
        f"settings   {settings or 'the defaults'}",
        "",
    ]
    for stage in status.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:,.1f} s"
        size = format_bytes(stage.disk_bytes) if stage.disk_bytes else ""
        facts = ", ".join(_format_fact(n, v) for n, v in stage.facts.items() if isinstance(v, (bool, int, float)))
        lines.append(f"{stage.name:<10} {stage.state:<11} {seconds:>10} {size:>10}  {facts}".rstrip())
    if status.epoch:
        age = "" if status.checkpoint_age is None else f", {_format_age(status.checkpoint_age)} ago"
        lines += ["", f"last checkpoint: epoch {status.epoch:,} of {status.n_epochs:,}{age}"]
    if status.damage:
        lines += ["", *(f"damaged: {text}" for text in status.damage)]
    if status.quality_warnings:
        lines += ["", *(f"warning: {text}" for text in status.quality_warnings)]
    purpose = "write the map again" if status.state == "finished" else "continue"
    return "\n".join([*lines, "", f"to {purpose}: {status.next_step}"])


def _format_fact(name: str, value: float) -> str:
    if isinstance(value, bool):
        return f"{name} {value}"
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value:,}"


def _format_age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
