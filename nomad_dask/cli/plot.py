"""``nomad-dask plot``: a picture of a map."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options
from nomad_dask.errors import InputError, near


@click.command(short_help="Draw a map as a PNG.")
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="PNG", help="The picture.")
@click.option("--color", metavar="COLUMN", help="Column of the map, categories or numbers; density without it.")
@click.option(
    "--size",
    callback=options.read_size,
    default="1200x1000",
    show_default=True,
    metavar="WxH",
    help="Width and height of the picture in pixels.",
)
@click.option("--theme", type=click.Choice(["dark", "light"]), default="dark", show_default=True)
@click.option("--title", help="Text above the map.")
@click.option("--legend/--no-legend", default=True, show_default=True, help="Explain the colours.")
@click.option("--overwrite", is_flag=True, help="Replace a picture that exists.")
@options.verbose_option
def plot(
    map: Path,  # noqa: A002 - what the user calls it
    output: Path,
    color: str | None,
    size: tuple[int, int],
    theme: str,
    title: str | None,
    legend: bool,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Draw MAP, which `fit` wrote, as a PNG."""
    options.check_picture(output, overwrite)

    from nomad_dask.maps import read_map
    from nomad_dask.viewing.raster import draw

    found = read_map(map)
    if color is not None and color not in found.table.column_names:
        raise InputError(f"{map} has no column {color!r}. {near(color, found.table.column_names)}")
    draw(
        found.positions[:, 0],
        found.positions[:, 1],
        color=None if color is None else found.table.column(color),
        color_name=color,
        title=title,
        size=size,
        theme=theme,
        legend=legend,
        path=output,
    )
    click.echo(output)
