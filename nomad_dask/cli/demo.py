"""``nomad-dask demo``: a map of the documentation of Python and what is installed."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options


@click.command(short_help="Make a map of the documentation on this machine.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Where the files go.",
)
@options.device_option
@options.quiet_option
@options.verbose_option
def demo(folder: Path, device: str, quiet: bool, verbose: bool) -> None:
    """Make a map of real text that every machine has: the docstrings of what is installed."""
    options.check_plotting()

    from nomad_dask.demo import run_demo

    with options.shown_progress(quiet, verbose) as emit:
        made = run_demo(folder, device=device, emit=emit)
    program = options.program()
    click.echo(
        f"{made.n_items:,} docstrings of Python's standard library and of the installed packages.\n\n"
        f"embeddings  {made.embeddings}\n"
        f"map         {made.map}\n"
        f"picture     {made.picture}\n"
        f"page        {made.page}\n\n"
        f"{options.scores_table(made.scores)}\n\n"
        "Open the map in a browser:\n"
        f"  {made.page.resolve().as_uri()}\n\n"
        "Look at the picture, then try:\n"
        f"  {program} plot {made.map} --color kind -o {folder / 'kinds.png'}\n"
        f"  {program} score {made.embeddings} {made.map} --label kind\n"
        f"  {program} fit {made.embeddings} --keep name,package --preset best -o {folder / 'best.parquet'}"
    )
