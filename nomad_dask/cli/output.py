"""What commands write: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomad_dask.callbacks.events import Emit, ignore_event
from nomad_dask.cli.options import VERBOSE
from nomad_dask.errors import InputError

if TYPE_CHECKING:
    from nomad_dask.metrics.scores import Scores


@contextmanager
def show_progress(quiet: bool, silent_seconds: float = 10.0) -> Iterator[Emit]:
    """Yield a callback that shows the progress of a command on standard error, in more detail with ``-v``.

    Without a terminal it says what runs every few seconds, at first after `silent_seconds`.
    """
    if quiet:
        yield ignore_event
        return
    from nomad_dask.callbacks.progress_bars import progress_bars

    verbose = VERBOSE in click.get_current_context().meta
    with progress_bars(verbose=verbose, silent_seconds=silent_seconds) as emit:
        yield emit


def check_picture(path: Path) -> None:
    """Check, before any work, that a picture can be drawn.

    Raises
    ------
    InputError
        Its path is not accepted, or Pillow or colorcet is not installed.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{path} is not accepted: pictures are PNG or SVG, use a name ending in .png or .svg.")
    check_plotting()


def check_plotting() -> None:
    """Check that Pillow and colorcet are installed.

    Raises
    ------
    InputError
    """
    from importlib.util import find_spec

    if find_spec("PIL") is None or find_spec("colorcet") is None:
        raise InputError("Pictures need Pillow and colorcet, which are not installed: pip install 'nomad-dask[plot]'.")


def write_json(result: dict[str, Any]) -> None:
    """Write a result to standard output as one JSON object."""
    click.echo(json.dumps(result, default=_to_json))


def _to_json(value: Any) -> Any:
    """Return a NumPy scalar or array, or a path, as a type that JSON has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def format_scores(scores: Scores) -> str:
    """Return scores as text, one per line with its 95 % confidence interval."""
    rows = [(f"NP@{k}", estimate) for k, estimate in scores.neighbors.items()]
    rows.append(("RTA", scores.triplets))
    if scores.centroid_triplets is not None:
        rows.append(("centroid triplets", scores.centroid_triplets))
    rows.append(("rank correlation", scores.rank_correlation))
    if scores.labels is not None:
        rows.append(("label accuracy", scores.labels))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {e.value:.3f}  ({e.low:.3f} to {e.high:.3f})" for name, e in rows)


def program_name() -> str:
    """Return what the user types to run this program, for commands that messages propose."""
    name = "nomad-dask"
    called = Path(sys.argv[0]).absolute()
    if called.name != name or shutil.which(name) == str(called):
        return name
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)
