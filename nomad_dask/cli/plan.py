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
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Worker processes to plan for.",
)
@options.json_option
@options.verbose_option
def plan(
    input: str,  # noqa: A002 - what the user calls it
    column: str | None,
    others: tuple[str, ...],
    workers: int,
    as_json: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Say what `fit` would do with INPUT and what it needs, and do nothing.

    Ends with exit code 3 when this machine has too little memory, or the working directory too little disk.
    """
    params = options.read_params(settings, others)

    import psutil

    from nomad_dask.plan import check_fits, make_plan
    from nomad_dask.sources import open_source

    memory = psutil.virtual_memory().available // workers
    made = make_plan(open_source(input, column=column), params, workers, memory)
    if as_json:
        options.write_json(made.as_dict())
    else:
        click.echo(made.table())
    check_fits(made, memory, shutil.disk_usage(".").free)
