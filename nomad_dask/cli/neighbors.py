"""``nomad-dask neighbors``: the neighbors of the rows of a model, or of new rows among them, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Write the neighbors of each row of a model, or of new rows, to a file.")
@options.model_argument
@click.argument("input", required=False, metavar="[INPUT]")
@click.option("--column", metavar="NAME", help="Column of the vectors of INPUT, if several can hold them.")
@click.option(
    "-o",
    "--output",
    "target",
    callback=options.read_path("output"),
    required=True,
    metavar="FILE.parquet",
    help="The neighbors: a .parquet, .feather or .arrow file, of edges also a .csv file.",
)
@click.option(
    "--n-neighbors", type=int, metavar="K", help="Neighbors of each row; by default as many as the model stores."
)
@click.option(
    "--form",
    type=click.Choice(["lists", "edges", "embedding-atlas"]),
    default="lists",
    show_default=True,
    help="A row with two lists for each row, a row for each edge as cuGraph reads them, or the column of "
    "embedding-atlas.",
)
@options.workers_option
@options.device_option
@options.memory_option
@options.overwrite_option
@options.json_option
@options.verbose_option
def neighbors(
    model: Path,
    input: str | None,  # noqa: A002 - the name in the help
    column: str | None,
    target: Path,
    n_neighbors: int | None,
    form: str,
    n_workers: int | None,
    device: str,
    memory_limit: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the neighbors of each row of INPUT among the rows of MODEL; without INPUT, those of the rows of MODEL.

    One row for each row, in the order of the input: the list of its neighbors, by their row numbers in the input of
    MODEL, nearest first, and the list of the distances to them. A row of MODEL is not its own neighbor.
    """
    from nomad_dask.errors import InputError
    from nomad_dask.model.map_model import load_model
    from nomad_dask.pipeline.options import ClusterOptions

    if input is None and column is not None:
        raise InputError(f"--column {column!r} is that of INPUT, which is missing: give both or neither.")
    loaded = load_model(model)
    length = loaded.write_neighbors(
        target,
        input,
        n_neighbors,
        form=form,
        column=column,
        cluster=ClusterOptions(n_workers=n_workers, device=device, memory_limit=memory_limit),
        overwrite=overwrite,
    )
    if as_json:
        output.write_json({"neighbors": target, "model": model, "input": input, "n_neighbors": length, "form": form})
    else:
        click.echo(target)
