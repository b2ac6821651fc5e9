"""``nomad-dask demo``: a map of the documentation of Python and the installed packages."""

from __future__ import annotations

from pathlib import Path

import click

from nomad_dask.cli import options, output


@click.command(short_help="Make a map of the documentation on this machine.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Directory for the files.",
)
@options.device_option
@options.quiet_option
@options.verbose_option
def demo(folder: Path, device: str, quiet: bool) -> None:
    """Make a map of real text that every machine has: the docstrings of the installed packages."""
    output.check_plotting()

    from nomad_dask.demo.run import run_demo

    with output.show_progress(quiet, silent_seconds=2.0) as emit:
        result = run_demo(folder, device=device, emit=emit)
    program = output.program_name()
    click.echo(
        f"{result.n_items:,} docstrings of Python's standard library and of the installed packages.\n\n"
        f"embeddings  {result.embeddings}\n"
        f"map         {result.map}\n"
        f"picture     {result.picture}\n"
        f"page        {result.page}\n\n"
        f"{output.format_scores(result.scores)}\n\n"
        "Open the map in a browser:\n"
        f"  {result.page.resolve().as_uri()}\n\n"
        "Look at the picture, then try:\n"
        f"  {program} plot {result.map} --color kind -o {folder / 'kinds.png'}\n"
        f"  {program} score {result.embeddings} {result.map} --label kind\n"
        f"  {program} fit {result.embeddings} --metadata-columns name,package --preset best "
        f"-o {folder / 'best.parquet'}"
    )
