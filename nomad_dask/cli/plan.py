"""``nomad-dask plan``: the stages of a run, and the memory, disk and time that it needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import click

from nomad_dask.cli import options as shared
from nomad_dask.cli import output
from nomad_dask.cli.method_options import method_options
from nomad_dask.params import Params


@dataclass(frozen=True)
class PlanOptions:
    """The options of ``plan`` that are not parameters of the method."""

    input: str
    column: str | None
    n_workers: int
    memory_limit: int | None
    device: str
    no_time: bool
    as_json: bool


@click.command(short_help="Show what fit would do and need.")
@shared.input_options
@method_options
@click.option(
    "--n-workers",
    "--workers",
    "n_workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of worker processes.",
)
@shared.memory_option
@shared.device_option
@click.option("--no-time", is_flag=True, help="Do not estimate the time, which makes a small map.")
@shared.json_option
@shared.verbose_option
@shared.grouped("options", PlanOptions)
def plan(params: Params, options: PlanOptions) -> None:
    """Show what `fit` would do with INPUT and which resources it needs, without doing it.

    Exits with code 3 if this machine has too little memory, or the working directory too little disk space.
    """
    from nomad_dask.pipeline.resources import estimate_resources
    from nomad_dask.planning.feasibility import check_resources
    from nomad_dask.planning.plan_table import format_plan
    from nomad_dask.planning.planner import make_plan
    from nomad_dask.sources import open_source
    from nomad_dask.utils.memory import available_memory

    source = open_source(options.input, column=options.column)
    memory = available_memory() // options.n_workers
    if options.memory_limit is not None:
        memory = min(memory, options.memory_limit)
    run_plan = make_plan(source, params, options.n_workers, memory)
    resources = estimate_resources(run_plan)
    seconds: dict[str, float] = {}
    if not options.no_time:
        from nomad_dask.pipeline.time_estimate import estimate_seconds

        seconds = estimate_seconds(source, params, run_plan, options.device)
    if options.as_json:
        output.write_json(resources.as_dict() | {"seconds": seconds})
    else:
        click.echo(format_plan(resources, seconds))
    check_resources(resources, memory, shutil.disk_usage(".").free)
