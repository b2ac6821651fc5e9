"""``nomad-dask export``: a map as a page that any browser shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from nomad_dask.cli import options, output


@dataclass(frozen=True)
class SiteOptions:
    """What a site shows, as `nomad_dask.site.export.export` takes it."""

    color: tuple[str, ...] | None
    hover: tuple[str, ...] | None
    search: tuple[str, ...] | None
    title: str | None
    tile_rows: int
    axes: tuple[str, ...] | None


def site_options(command: options.Command) -> options.Command:
    """Add the options of a site; pass them on as ``site``, a `SiteOptions`."""
    command = options.axes_option(options.grouped("site", SiteOptions)(command))
    command = click.option(
        "--tile-rows",
        type=click.IntRange(min=1),
        default=16_384,
        show_default=True,
        help="Number of points that the page loads at once.",
    )(command)
    command = click.option("--title", help="Title of the page; by default the name of the file.")(command)
    for option, text in (
        ("--search", "Columns to search; by default all text."),
        ("--hover", "Columns to show beside a point; by default all columns."),
        ("--color", "Columns to color by; by default numbers, booleans, the cell, and text with few different values."),
    ):
        command = click.option(option, callback=options.read_names, metavar="A,B", help=text)(command)
    return command


@click.command(short_help="Write a map as a page for the browser.")
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option(
    "-o", "--output", "folder", callback=options.read_path("site"), required=True, metavar="DIR", help="The folder."
)
@site_options
@click.option("--overwrite", is_flag=True, help="Replace an existing site.")
@options.quiet_option
@options.json_option
@options.verbose_option
def export(
    map: Path,  # noqa: A002 - the name in the help
    folder: Path,
    site: SiteOptions,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write MAP, the output of `fit`, as a folder of static files: a page to zoom and search in.

    The page needs no server: open DIR/index.html, or copy the folder to any web host. Uses up to 2 GB of memory for
    maps of any size.
    """
    from nomad_dask.site.export import export as write_site

    with output.show_progress(quiet) as emit:
        written = write_site(map, folder, overwrite=overwrite, emit=emit, **vars(site))
    if as_json:
        output.write_json(written.as_dict())
    else:
        click.echo(folder / "index.html")
