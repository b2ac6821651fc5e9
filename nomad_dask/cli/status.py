"""``nomad-dask status``: how far a run is."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Say how far a run is.")
@click.argument("workspace", type=click.Path(path_type=Path), metavar="WORKSPACE")
@click.option("--quick", is_flag=True, help="Look at the sizes of the files only, not at their content.")
@options.json_option
@options.verbose_option
def status(workspace: Path, quick: bool, as_json: bool) -> None:
    """Say how far the run in WORKSPACE is, what it measured, what is damaged, and how to go on.

    Changes nothing, and may be asked while the run goes on.
    """
    from nomad_dask.pipeline.status import read_status
    from nomad_dask.pipeline.status_text import format_status

    run_status = read_status(workspace, sizes_only=quick)
    if as_json:
        output.write_json(run_status.as_dict())
    else:
        click.echo(format_status(run_status))
