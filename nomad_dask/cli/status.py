"""``nomad-dask status``: the progress of a run, or what a model holds."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Show the progress of a run, or what a model holds.")
@click.argument("path", callback=options.read_path("workspace"), metavar="WORKSPACE|MODEL")
@click.option("--quick", is_flag=True, help="Check only the sizes of the files, not their content.")
@options.json_option
@options.verbose_option
def status(path: Path, quick: bool, as_json: bool) -> None:
    """Show the progress of the run in WORKSPACE, its measurements, damaged files, and how to resume it.

    Of a MODEL, show its size, parameters and damaged files. Changes nothing, and can be used while the run is in
    progress.
    """
    from nomad_dask.storage.model_folder import is_model

    if is_model(path):
        from nomad_dask.model.model_status import format_model_status, read_model_status

        model_status = read_model_status(path, sizes_only=quick)
        output.write_json(model_status.as_dict()) if as_json else click.echo(format_model_status(model_status))
        return
    from nomad_dask.pipeline.status import read_status
    from nomad_dask.pipeline.status_text import format_status

    run_status = read_status(path, sizes_only=quick)
    output.write_json(run_status.as_dict()) if as_json else click.echo(format_status(run_status))
