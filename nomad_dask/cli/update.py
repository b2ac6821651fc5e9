"""``nomad-dask update`` and ``remove``: rows that join a model, or leave it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomad_dask.cli import options, output
from nomad_dask.errors import InputError, suggest

if TYPE_CHECKING:
    import numpy as np

    from nomad_dask.model.map_model import MapModel
    from nomad_dask.pipeline.options import ClusterOptions

_ROW = "row"


def _update_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of both commands."""
    for add in (
        options.verbose_option,
        options.json_option,
        options.quiet_option,
        options.overwrite_option,
        options.memory_option,
        options.device_option,
        options.workers_option,
        click.option(
            "-o",
            "--output",
            "target",
            callback=options.read_path("output"),
            metavar="MAP.parquet",
            help="Also write the map of all rows: a .parquet, .csv, .feather or .arrow file.",
        ),
    ):
        command = add(command)
    return command


@click.command(short_help="Add new rows to a model and its map.")
@options.model_argument
@options.input_options
@click.option("--freeze", is_flag=True, help="Move no row of the map.")
@_update_options
def update(
    model: Path,
    input: str,  # noqa: A002 - the name in the help
    column: str | None,
    freeze: bool,
    **values: Any,
) -> None:
    """Add the rows of INPUT to MODEL: to its vectors, its neighbor lists and its map.

    Rows of the map move where new ones crowd in. The model stays what it was until all is done; the same command
    resumes an update that was stopped.
    """
    from nomad_dask.sources import open_source

    source = open_source(input, column=column)

    def change(loaded: MapModel, cluster: ClusterOptions, emit: Any) -> MapModel:
        return loaded.update(source, freeze=freeze, cluster=cluster, emit=emit)

    _change(model, [input], change, **values)


@click.command(short_help="Remove rows from a model and its map.")
@options.model_argument
@click.argument("rows", type=click.Path(path_type=Path), metavar="ROWS")
@_update_options
def remove(model: Path, rows: Path, **values: Any) -> None:
    """Remove rows from MODEL: those whose numbers are in the column `row` of ROWS, a table.

    The other rows stay where they are, and are renumbered in the same order.
    """
    numbers = _read_rows(rows)

    def change(loaded: MapModel, cluster: ClusterOptions, emit: Any) -> MapModel:
        return loaded.remove(numbers, cluster=cluster, emit=emit)

    _change(model, [str(rows)], change, **values)


def _read_rows(path: Path) -> np.ndarray:
    """Return the column ``row`` of a table.

    Raises
    ------
    InputError
        There is none, or it has missing values.
    """
    from nomad_dask.storage.open_table import open_table

    table = open_table(path, "table of row numbers")
    if _ROW not in table.schema.names:
        raise InputError(f"{str(path)!r} has no column {_ROW!r}. {suggest(_ROW, table.schema.names)}")
    column = table.read([_ROW]).column(0)
    if column.null_count:
        raise InputError(f"The column {_ROW!r} of {str(path)!r} has missing values: leave these rows out.")
    numbers: np.ndarray = column.to_numpy()
    return numbers


def _change(
    model: Path,
    inputs: list[str],
    change: Callable[[MapModel, ClusterOptions, Any], MapModel],
    *,
    target: Path | None,
    n_workers: int | None,
    device: str,
    memory_limit: int | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Change a model, write its map, and say what it holds."""
    from nomad_dask.maps.files import write_table
    from nomad_dask.model.map_model import load_model
    from nomad_dask.pipeline.options import ClusterOptions
    from nomad_dask.pipeline.outputs import check_table_output

    loaded = load_model(model)
    kind = None if target is None else check_table_output(target, [*inputs, str(model)], overwrite)
    cluster = ClusterOptions(n_workers=n_workers, device=device, memory_limit=memory_limit)
    with output.show_progress(quiet) as emit:
        changed = change(loaded, cluster, emit)
    if target is not None and kind is not None:
        found = changed.to_map()
        write_table(target, kind, found.to_arrow(), found.metadata)
    if as_json:
        output.write_json({"model": model, "map": target, "rows": changed.n_rows, "rows_before": loaded.n_rows})
    else:
        click.echo(model if target is None else target)
