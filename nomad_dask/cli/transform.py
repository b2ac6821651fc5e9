"""``nomad-dask transform``: new rows on the map of a model."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Place new rows on the map of a model.")
@options.model_argument
@options.input_options
@click.option(
    "-o",
    "--output",
    "target",
    callback=options.read_path("output"),
    required=True,
    metavar="MAP.parquet",
    help="The new rows: a .parquet, .csv, .feather or .arrow file.",
)
@click.option("--metadata-columns", callback=options.read_names, metavar="A,B", help="Columns of INPUT to copy.")
@options.workers_option
@options.device_option
@options.memory_option
@options.overwrite_option
@options.json_option
@options.verbose_option
def transform(
    model: Path,
    input: str,  # noqa: A002 - the name in the help
    column: str | None,
    target: Path,
    metadata_columns: tuple[str, ...] | None,
    n_workers: int | None,
    device: str,
    memory_limit: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Place the rows of INPUT on the map of MODEL, whose own rows do not move.

    Writes one row for each row of INPUT, in the same order: x, y, the cell, the distance to the nearest row of the map,
    an outlier score, and the metadata columns.
    """
    from nomad_dask.maps.files import write_table
    from nomad_dask.model.map_model import load_model
    from nomad_dask.pipeline.options import ClusterOptions
    from nomad_dask.pipeline.outputs import check_table_output

    loaded = load_model(model)
    kind = check_table_output(target, [input, str(model)], overwrite)
    cluster = ClusterOptions(n_workers=n_workers, device=device, memory_limit=memory_limit)
    placed = loaded.transform(input, column=column, metadata_columns=metadata_columns or (), cluster=cluster)
    write_table(target, kind, placed.to_arrow(), placed.metadata)
    if as_json:
        output.write_json({"map": target, "model": model, "rows": len(placed)})
    else:
        click.echo(target)
