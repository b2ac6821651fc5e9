"""``nomad-dask plan``: what a run would do and need."""

from __future__ import annotations

import shutil
from typing import Any

import click

from nomad_dask.cli import options


@click.command(short_help="Say what fit would do and need.")
@options.input_options
@options.method_options
@click.option(
    "--n-workers",
    "--workers",
    "workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Worker processes to plan for.",
)
@options.memory_option
@options.device_option
@click.option("--no-time", is_flag=True, help="Do not estimate the time, for which a few rows are mapped.")
@options.json_option
@options.verbose_option
def plan(
    input: str,  # noqa: A002 - what the user calls it
    column: str | None,
    others: tuple[str, ...],
    workers: int,
    memory: int | None,
    device: str,
    no_time: bool,
    as_json: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Say what `fit` would do with INPUT and what it needs, and do nothing of it.

    Ends with exit code 3 when this machine has too little memory, or the working directory too little disk.
    """
    params = options.read_params(settings, others)

    from nomad_dask.planning.feasibility import check_resources
    from nomad_dask.planning.plan import make_plan
    from nomad_dask.planning.plan_table import format_plan
    from nomad_dask.sources import open_source
    from nomad_dask.utils.memory import available_memory

    source = open_source(input, column=column)
    there = available_memory() // workers
    room = there if memory is None else min(there, memory)
    made = make_plan(source, params, workers, room)
    seconds: dict[str, float] = {}
    if not no_time:
        from nomad_dask.pipeline.time_estimate import estimate_seconds

        seconds = estimate_seconds(source, params, made, device)
    if as_json:
        options.write_json(made.as_dict() | {"seconds": seconds})
    else:
        click.echo(format_plan(made, seconds))
    check_resources(made, room, shutil.disk_usage(".").free)
