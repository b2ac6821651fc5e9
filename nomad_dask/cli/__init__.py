"""The command line: `nomad-dask`. Every command reads its options and calls the package that does the work.

Exit codes: 0 done, 2 wrong use or bad input, 3 not enough memory or disk, 4 interrupted, 1 anything else.
Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import signal
import traceback
import warnings
from typing import Any, TextIO

import click

from nomad_dask._version import __version__
from nomad_dask.cli.demo import demo
from nomad_dask.cli.export import export
from nomad_dask.cli.fit import fit
from nomad_dask.cli.options import VERBOSE
from nomad_dask.cli.plan import plan
from nomad_dask.cli.plot import plot
from nomad_dask.cli.score import score
from nomad_dask.cli.status import status
from nomad_dask.cli.view import view
from nomad_dask.errors import Interrupted, NomadError, NomadWarning


class _Commands(click.Group):
    """Reports the error of a command as one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except NomadError as error:
            _report(ctx, error, str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            _report(ctx, error, "Stopped.")
            ctx.exit(Interrupted.exit_code)
        except Exception as error:  # noqa: BLE001 - the last place to report it in one line
            hint = "" if VERBOSE in ctx.meta else " This was not expected; -v shows where it comes from."
            _report(ctx, error, f"{type(error).__name__}: {error}.{hint}")
            ctx.exit(NomadError.exit_code)


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


def _report(ctx: click.Context, error: BaseException, message: str) -> None:
    """Write a message to standard error, after the traceback with ``-v``."""
    if VERBOSE in ctx.meta:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(f"Error: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="nomad-dask")
def cli() -> None:
    """Make maps of embedding vectors, from thousands to tens of millions."""


for command in (fit, status, score, plot, view, export, plan, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line and end the process."""
    # SIGTERM stops a job as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli(prog_name="nomad-dask")
