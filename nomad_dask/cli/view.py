"""``nomad-dask view``: a map in the browser."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from dataclasses import fields
from pathlib import Path

import click
from click.core import ParameterSource

from nomad_dask.cli import options
from nomad_dask.cli.export import SiteOptions, site_options
from nomad_dask.cli.output import show_progress
from nomad_dask.errors import InputError
from nomad_dask.utils.interrupts import current_handler


@click.command(short_help="Show a map in the browser.")
@click.argument("map", type=click.Path(path_type=Path), metavar="MAP")
@click.option(
    "-o",
    "--output",
    callback=options.read_path("site"),
    metavar="DIR",
    help="Folder for the site, which is kept. By default the site is removed at the end.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the server, on 127.0.0.1 only; by default a free one.",
)
@site_options
@click.option("--overwrite", is_flag=True, help="Replace an existing site.")
@options.quiet_option
@options.verbose_option
def view(
    map: Path,  # noqa: A002 - the name in the help
    output: Path | None,
    port: int,
    site: SiteOptions,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write MAP as a site, as `export` does, and serve it until Ctrl-C. Prints the address to open.

    MAP may also be a folder written by `export`, which is served unchanged.
    """
    from nomad_dask.site.atomic_folder import recover_site
    from nomad_dask.site.server import Server

    if not map.exists():
        recover_site(map)  # it may be a site that a killed export had set aside
    with ExitStack() as stack:
        if map.is_dir():
            folder = map
            _check_site(map, to_be_written=output is not None or overwrite or _has_site_options())
        elif output is not None:
            folder = output
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nomad-dask-"))) / "site"
        # Started before the work, so that a port in use is reported at once.
        server = stack.enter_context(Server(folder, port))
        if not map.is_dir():
            from nomad_dask.site.export import export

            with show_progress(quiet) as emit:
                export(map, folder, overwrite=overwrite, emit=emit, **vars(site))
        with suppress(KeyboardInterrupt):
            click.echo(server.address)
            click.echo("Ctrl-C ends.", err=True)
            server.serve_forever()
        # Ctrl-C is how this command ends, and does not stop anything.
        if (handler := current_handler()) is not None:
            handler.acknowledge()


def _has_site_options() -> bool:
    """Return whether the user gave any option of a site to write."""
    context = click.get_current_context()
    return any(context.get_parameter_source(field.name) is not ParameterSource.DEFAULT for field in fields(SiteOptions))


def _check_site(folder: Path, *, to_be_written: bool) -> None:
    from nomad_dask.site.atomic_folder import is_site

    if not is_site(folder):
        raise InputError(f"The folder {str(folder)!r} holds no site: use a map, or a folder written by 'export'.")
    if to_be_written:
        raise InputError(f"{str(folder)!r} is already a site: use the map to write another one.")
