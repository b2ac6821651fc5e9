"""The commands of `nomad-dask`, and how their errors are reported."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any, TextIO

import click

from nomad_dask._version import __version__
from nomad_dask.cli.demo import demo
from nomad_dask.cli.export import export
from nomad_dask.cli.fit import fit
from nomad_dask.cli.neighbors import neighbors
from nomad_dask.cli.options import VERBOSE
from nomad_dask.cli.plan import plan
from nomad_dask.cli.plot import plot
from nomad_dask.cli.score import score
from nomad_dask.cli.status import status
from nomad_dask.cli.transform import transform
from nomad_dask.cli.update import remove, update
from nomad_dask.cli.view import view
from nomad_dask.errors import InputError, Interrupted, NomadError, NomadWarning
from nomad_dask.utils.interrupts import current_handler


class _Commands(click.Group):
    """Reports the error of a command as one message and an exit code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except KeyboardInterrupt as error:  # click would call it an error
            raise click.exceptions.Exit(Interrupted.exit_code) from error

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = _show_warning
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place to report it in one line
            if VERBOSE in ctx.meta:
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            reported = _as_reported(ctx, error)
            click.echo(f"Error: {reported}", err=True)
            ctx.exit(reported.exit_code)


_show_python_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write the warnings of this package as one line, without their source code."""
    if issubclass(category, NomadWarning):
        click.echo(f"Warning: {message}", err=True)
    else:
        _show_python_warning(message, category, filename, lineno, file, line)


def _as_reported(ctx: click.Context, error: BaseException) -> NomadError:
    """Return an error of a command as one with a message for users and an exit code."""
    handler = current_handler()
    # Any error after a Ctrl-C may come from it.
    was_interrupted = handler is not None and handler.acknowledge()
    if isinstance(error, Interrupted) or (isinstance(error, NomadError) and not was_interrupted):
        return error
    if was_interrupted or isinstance(error, KeyboardInterrupt):
        return Interrupted("Stopped.")
    if isinstance(error, BrokenPipeError):
        # Or Python complains about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InputError("Standard output was closed before all was written to it: keep it open, or use a file.")
    hint = "" if VERBOSE in ctx.meta else " This was not expected; -v shows where it comes from."
    return NomadError(f"{type(error).__name__}: {error}.{hint}")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="nomad-dask")
def cli() -> None:
    """Make maps of embedding vectors, from thousands to tens of millions."""


for command in (fit, transform, update, remove, neighbors, status, score, plot, view, export, plan, demo):
    cli.add_command(command)


def run() -> int:
    """Run the command that is given to the process, and return its exit code."""
    try:
        cli(prog_name="nomad-dask")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
