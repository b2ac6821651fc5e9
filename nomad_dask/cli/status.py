"""``nomad-dask status``: the progress of a run."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Show the progress of a run.")
@click.argument("workspace", callback=options.read_path("workspace"), metavar="WORKSPACE")
@click.option("--quick", is_flag=True, help="Check only the sizes of the files, not their content.")
@options.json_option
@options.verbose_option
def status(workspace: Path, quick: bool, as_json: bool) -> None:
    """Show the progress of the run in WORKSPACE, its measurements, damaged files, and how to resume it.

    Changes nothing, and can be used while the run is in progress.
    """
    from nomad_dask.pipeline.status import read_status
    from nomad_dask.pipeline.status_text import format_status

    run_status = read_status(workspace, sizes_only=quick)
    if as_json:
        output.write_json(run_status.as_dict())
    else:
        click.echo(format_status(run_status))
