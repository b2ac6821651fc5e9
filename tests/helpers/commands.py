"""The command in this process, which spares its imports, for tests of what it does rather than of the process."""

from __future__ import annotations

import contextlib
import io
import warnings

from nomad_dask.cli import cli


def run_command(arguments: list[str]) -> tuple[int, str, str]:
    """Return the exit code of a command, and what it wrote to standard output and standard error."""
    out, errors = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        warnings.simplefilter("default")  # as for a user; the tests make errors of them
        try:
            cli.main(arguments, prog_name="nomad-dask")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), errors.getvalue()
