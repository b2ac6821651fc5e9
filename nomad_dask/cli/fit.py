"""``nomad-dask fit``: from a file of vectors to a map."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from nomad_dask.cli import options
from nomad_dask.errors import Interrupted


@click.command(short_help="Make a map of a file of vectors.")
@options.input_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="MAP.parquet", help="The map.")
@click.option(
    "--metadata-columns",
    "--keep",
    "metadata_columns",
    callback=options.read_names,
    metavar="A,B",
    help="Columns of the input to carry to the map.",
)
@options.method_options
@options.device_option
@click.option(
    "--n-workers", "--workers", "workers", type=click.IntRange(min=1), help="Worker processes of the embedded cluster."
)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler to use instead.")
@click.option(
    "--scheduler-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file in which a running Dask scheduler has written its address.",
)
@options.memory_option
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory for what the stages make, kept afterwards. Without it MAP.parquet.nomad, removed when "
    "the map is done. The same run takes up what is there.",
)
@click.option("--keep-stages", is_flag=True, help="Keep in the workspace what no later stage needs, too.")
@click.option("--resume", is_flag=True, help="Insist that the workspace holds a run to take up.")
@click.option("--overwrite", is_flag=True, help="Replace output that exists, and a workspace of another run.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Also draw the map.")
@options.quiet_option
@options.json_option
@options.verbose_option
def fit(
    input: str,  # noqa: A002 - what the user calls it
    column: str | None,
    output: Path,
    metadata_columns: tuple[str, ...] | None,
    others: tuple[str, ...],
    device: str,
    workers: int | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    memory: int | None,
    workspace: Path | None,
    keep_stages: bool,
    resume: bool,
    overwrite: bool,
    plot: Path | None,
    quiet: bool,
    as_json: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Lay out the vectors of INPUT as a map: a .npy or Parquet file, a Zarr array, a directory, a pattern or a URL.

    Writes one row for each row of INPUT, in its order: x, y, the cell, and the columns to keep.
    """
    params = options.read_params(settings, others)
    if plot is not None:
        options.check_picture(plot, overwrite)

    from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project
    from nomad_dask.sources import open_source

    source = open_source(input, column=column, metadata_columns=metadata_columns or ())
    again = [options.program(), *sys.argv[1:]]
    try:
        with options.shown_progress(quiet, verbose) as emit:
            result = project(
                source,
                params,
                cluster=ClusterOptions(
                    scheduler=scheduler,
                    scheduler_file=None if scheduler_file is None else str(scheduler_file),
                    n_workers=workers,
                    device=device,
                    memory_limit=memory,
                ),
                workspace=WorkspaceOptions(workspace, resume, overwrite, keep_stages, again),
                output=OutputOptions(output, metadata_columns or (), overwrite),
                emit=emit,
            )
    except Interrupted as stop:
        # A run takes up what its workspace holds, with or without --resume.
        raise Interrupted(f"{stop} Go on with: {shlex.join(again)}") from stop
    if plot is not None:
        from nomad_dask.plotting.raster import draw

        draw(result.positions[:, 0], result.positions[:, 1], path=plot)
    if as_json:
        options.write_json(
            {
                "map": output,
                "plot": plot,
                "rows": source.n_rows,
                "dims": source.n_dims,
                "params": params.as_dict(),
                "seconds": result.seconds,
                "diagnostics": result.diagnostics,
            }
        )
    else:
        for path in (output, plot):
            if path is not None:
                click.echo(path)
