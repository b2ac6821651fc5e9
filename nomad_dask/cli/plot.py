"""``nomad-dask plot``: a picture of a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from nomad_dask.cli import options as shared
from nomad_dask.cli.output import check_picture, show_progress
from nomad_dask.errors import InputError


@dataclass(frozen=True)
class PlotOptions:
    """The look of a picture, as `nomad_dask.maps.plot` takes it."""

    color: str | None
    labels: str | None
    label_text: str | None
    size: tuple[int, int]
    theme: str
    title: str | None
    legend: bool
    axes: tuple[str, ...] | None


@click.command(short_help="Draw a map as a PNG or SVG.")
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option(
    "-o",
    "--output",
    callback=shared.read_path("picture"),
    required=True,
    metavar="PICTURE",
    help="The picture, a .png or .svg file.",
)
@click.option("--color", metavar="COLUMN", help="Column of categories or numbers; density by default.")
@click.option("--labels", metavar="COLUMN", help="Column of names, written at the densest part of their points.")
@click.option("--label-text", metavar="COLUMN", help="Column of text: label parts of the map with their typical words.")
@click.option(
    "--size",
    callback=shared.read_size,
    default="1200x1000",
    show_default=True,
    metavar="WxH",
    help="Width and height of the picture in pixels.",
)
@shared.axes_option
@click.option("--theme", type=click.Choice(["dark", "light"]), default="dark", show_default=True)
@click.option("--title", help="Text above the map.")
@click.option("--legend/--no-legend", default=True, show_default=True, help="Draw a legend of the colors.")
@click.option("--overwrite", is_flag=True, help="Replace an existing picture.")
@shared.verbose_option
@shared.grouped("options", PlotOptions)
def plot(
    map: Path,  # noqa: A002 - the name in the help
    output: Path,
    options: PlotOptions,
    overwrite: bool,
) -> None:
    """Draw MAP, the output of `fit`, as a PNG, or as an SVG with text as text."""
    from nomad_dask.pipeline.outputs import check_output

    check_picture(output)
    check_output(output, overwrite)
    if options.labels is not None and options.label_text is not None:
        raise InputError("Labels come from one column: use --labels or --label-text, not both.")

    from nomad_dask import maps

    with show_progress(quiet=False):
        maps.plot(map, output, **vars(options))
    click.echo(output)
