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


def site_options(command: options.Command) -> options.Command:
    """Add the options of a site; pass them on as ``site``, a `SiteOptions`."""
    command = options.grouped("site", SiteOptions)(command)
    command = click.option(
        "--tile-rows",
        type=click.IntRange(min=1),
        default=16_384,
        show_default=True,
        help="Points that are loaded at once.",
    )(command)
    command = click.option("--title", help="Name of the page; by default that of the file.")(command)
    for option, text in (
        ("--search", "Columns whose words can be searched; by default all text."),
        ("--hover", "Columns to show beside a point; by default all that were kept."),
        ("--color", "Columns to colour by; by default numbers, booleans, the cell, and text of few different values."),
    ):
        command = click.option(option, callback=options.read_names, metavar="A,B", help=text)(command)
    return command


@click.command(short_help="Write a map as a page for the browser.")
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder."
)
@site_options
@click.option("--overwrite", is_flag=True, help="Replace a site that is there.")
@options.quiet_option
@options.json_option
@options.verbose_option
def export(
    map: Path,  # noqa: A002 - what the user calls it
    folder: Path,
    site: SiteOptions,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write MAP, which `fit` wrote, as a folder of static files: a page to look, zoom and search in.

    The page needs no server: open DIR/index.html, or put the folder on any web host. Takes up to 2 GB of memory,
    however large the map is.
    """
    from nomad_dask.site.export import export as write_site

    with output.show_progress(quiet) as emit:
        written = write_site(map, folder, overwrite=overwrite, emit=emit, **vars(site))
    if as_json:
        output.write_json(written.as_dict())
    else:
        click.echo(folder / "index.html")
