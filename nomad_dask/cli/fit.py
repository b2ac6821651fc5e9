"""``nomad-dask fit``: from a file of vectors to a map."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nomad_dask.cli import options as shared
from nomad_dask.cli import output
from nomad_dask.cli.method_options import method_options
from nomad_dask.errors import Interrupted
from nomad_dask.params import Params

if TYPE_CHECKING:
    from nomad_dask.pipeline.collect import Layout
    from nomad_dask.pipeline.given_init import GivenPositions
    from nomad_dask.pipeline.given_neighbors import GivenNeighbors
    from nomad_dask.sources.base import Source


@dataclass(frozen=True)
class FitOptions:
    """The options of ``fit`` that are not parameters of the method."""

    input: str
    column: str | None
    output: Path
    metadata_columns: tuple[str, ...] | None
    neighbors_column: tuple[str, ...] | None
    device: str
    n_workers: int | None
    scheduler: str | None
    scheduler_file: Path | None
    memory_limit: int | None
    workspace: Path | None
    keep_stages: bool
    resume: bool
    overwrite: bool
    plot: Path | None
    model: Path | None
    quiet: bool
    as_json: bool


@click.command(short_help="Make a map of a file of vectors.")
@shared.input_options
@click.option(
    "-o",
    "--output",
    callback=shared.read_path("output"),
    required=True,
    metavar="MAP.parquet",
    help="The map: a .parquet, .csv, .feather or .arrow file.",
)
@click.option(
    "--metadata-columns",
    "--keep",
    "metadata_columns",
    callback=shared.read_names,
    metavar="A,B",
    help="Columns of the input to copy to the map.",
)
@click.option(
    "--neighbors-column",
    callback=shared.read_names,
    metavar="A[,B]",
    help="Column of known neighbors, which are not searched for then: structures of ids and distances, or two columns "
    "of lists.",
)
@method_options
@shared.device_option
@click.option(
    "--n-workers",
    "--workers",
    "n_workers",
    type=click.IntRange(min=1),
    help="Worker processes of the embedded cluster.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Address of a running Dask scheduler to use instead.")
@click.option(
    "--scheduler-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File in which a running Dask scheduler has written its address.",
)
@shared.memory_option
@click.option(
    "--workspace",
    callback=shared.read_path("workspace"),
    metavar="DIR",
    help="Directory for the artifacts of the stages, which is kept. By default MAP.parquet.nomad, which is removed "
    "when the map is finished. The same run resumes from it.",
)
@click.option("--keep-stages", is_flag=True, help="Keep artifacts in the workspace that no later stage needs.")
@click.option("--resume", is_flag=True, help="Fail if the workspace has no run to resume.")
@click.option("--overwrite", is_flag=True, help="Replace existing output, and a workspace of another run.")
@click.option("--plot", callback=shared.read_path("picture"), metavar="PNG", help="Also draw the map.")
@click.option(
    "--model",
    callback=shared.read_path("model"),
    metavar="DIR",
    help="Also write a model: what is needed to look up neighbors later.",
)
@shared.quiet_option
@shared.json_option
@shared.verbose_option
@shared.grouped("options", FitOptions)
def fit(params: Params, given_positions: GivenPositions | None, options: FitOptions) -> None:
    """Lay out the vectors of INPUT as a map: a .npy or Parquet file, a Zarr array, a directory, a pattern or a URL.

    Writes one row for each row of INPUT, in the same order: x, y, the cell, and the metadata columns.
    """
    if options.plot is not None:
        output.check_picture(options.plot)

    from nomad_dask.pipeline.given_neighbors import neighbors_of_columns
    from nomad_dask.sources import open_source

    of_neighbors = options.neighbors_column or ()
    columns = (*(options.metadata_columns or ()), *of_neighbors)
    source = open_source(options.input, column=options.column, metadata_columns=columns)
    given_neighbors = neighbors_of_columns(source, of_neighbors) if of_neighbors else None
    if given_neighbors is not None:
        params = params.replace(precomputed_knn=given_neighbors.param)
    layout = _make_map(source, params, given_positions, given_neighbors, options)
    if options.as_json:
        output.write_json(
            {
                "map": options.output,
                "plot": options.plot,
                "model": options.model,
                "rows": source.n_rows,
                "dims": source.n_dims,
                "params": params.as_dict(),
                "seconds": layout.seconds,
                "diagnostics": layout.diagnostics,
            }
        )
    else:
        for path in (options.output, options.plot, options.model):
            if path is not None:
                click.echo(path)


def _make_map(
    source: Source,
    params: Params,
    given_positions: GivenPositions | None,
    given_neighbors: GivenNeighbors | None,
    options: FitOptions,
) -> Layout:
    """Run the stages; a run that is interrupted says how to resume it."""
    from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project

    command = [output.program_name(), *sys.argv[1:]]
    scheduler_file = None if options.scheduler_file is None else str(options.scheduler_file)
    try:
        with output.show_progress(options.quiet) as emit:
            return project(
                source,
                params,
                cluster=ClusterOptions(
                    scheduler=options.scheduler,
                    scheduler_file=scheduler_file,
                    n_workers=options.n_workers,
                    device=options.device,
                    memory_limit=options.memory_limit,
                ),
                workspace=WorkspaceOptions(
                    options.workspace, options.resume, options.overwrite, options.keep_stages, command
                ),
                output=OutputOptions(
                    options.output, options.metadata_columns or (), options.overwrite, options.plot, options.model
                ),
                emit=emit,
                given_positions=given_positions,
                given_neighbors=given_neighbors,
            )
    except Interrupted as error:
        # The same command resumes the run, with or without --resume.
        raise Interrupted(f"{error} Go on with: {shlex.join(command)}") from error
