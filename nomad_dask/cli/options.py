"""Options that several commands share, and what they become."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nomad_dask.callbacks.events import Emit
from nomad_dask.errors import InputError, suggest
from nomad_dask.params import AFFINITIES, METRICS, PRESETS, Params

if TYPE_CHECKING:
    from nomad_dask.metrics.scores import Scores

Command = Callable[..., Any]

# Key of the context in which -v is kept for whoever reports an error.
VERBOSE = "nomad_dask.verbose"

# Names of the option, short ones last; its setting; and its type. The other settings are reached by --set.
_METHOD_OPTIONS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("--n-neighbors", "--neighbors"), "n_neighbors", click.INT),
    (("--n-epochs", "--epochs"), "n_epochs", click.INT),
    (("--preset",), "preset", click.Choice(PRESETS)),
    (("--learning-rate",), "learning_rate", click.FLOAT),
    (("--n-cells", "--cells"), "n_cells", click.INT),
    (("--n-shards", "--shards"), "n_shards", click.INT),
    (("--metric",), "metric", click.Choice(METRICS)),
    (("--affinity", "--weights"), "affinity", click.Choice(AFFINITIES)),
    (("--random-state", "--seed"), "random_state", click.INT),
)


def method_options(command: Command) -> Command:
    """Add an option for every setting of `_METHOD_OPTIONS`, and ``--set`` for the rest."""
    texts, defaults = Params.describe(), {f.name: f.default for f in fields(Params)}
    others = [name for name in texts if name not in {setting for _, setting, _ in _METHOD_OPTIONS}]
    command = click.option(
        "--set",
        "others",
        metavar="NAME=VALUE",
        multiple=True,
        help=f"Any other setting of the method, may be given several times: {', '.join(others)}.",
    )(command)
    for names, setting, kind in reversed(_METHOD_OPTIONS):
        default = defaults[setting]
        # What None stands for in Python is an option left out here.
        text = texts[setting].replace("; None takes", "; by default")
        text = text if default is None else f"{text}  [default: {default}]"
        command = click.option(*names, setting, type=kind, help=text)(command)
    return command


def read_params(given: dict[str, Any], others: tuple[str, ...]) -> Params:
    """Make the parameters of the options that were given.

    Parameters
    ----------
    given : dict
        Values of the method's options by setting; None stands for an option not given.
    others : tuple of str
        ``name=value`` from ``--set``.

    Raises
    ------
    InputError
        A setting that does not exist, is given twice, or has a value that is not accepted.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    known = Params.describe()
    for text in others:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator:
            raise InputError(f"--set {text!r} is not accepted: give NAME=VALUE, such as --set momentum=0.9.")
        if name not in known:
            raise InputError(f"--set {text!r}: there is no setting {name!r}. {suggest(name, known)}")
        if name in settings:
            raise InputError(f"{name} is given twice: leave out --set {text!r} or the other.")
        settings[name] = _typed(value.strip())
    return Params(**settings)


def _typed(text: str) -> Any:
    """Read a number, True, False or None; anything else is a name."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def input_options(command: Command) -> Command:
    """Add the input and the choice of its column."""
    command = click.option(
        "--column",
        metavar="NAME",
        help="Column that holds the vectors; found by itself when only one can be it.",
    )(command)
    return click.argument("input", metavar="INPUT")(command)


def verbose_option(command: Command) -> Command:
    """Add ``-v``, which is noted in the context."""

    def note(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
        if value:
            ctx.meta[VERBOSE] = True
        return value

    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=note,
        help="Write a line for every stage, and where an error comes from.",
    )(command)


def quiet_option(command: Command) -> Command:
    """Add ``--quiet``."""
    return click.option("--quiet", is_flag=True, help="Show no progress.")(command)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write the result as one JSON object.")(command)


def device_option(command: Command) -> Command:
    """Add ``--device``."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes the GPU where one works.",
    )(command)


def memory_option(command: Command) -> Command:
    """Add ``--memory-limit``."""

    def read(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        from nomad_dask.utils.memory import parse_bytes

        return parse_bytes(value)

    return click.option(
        "--memory-limit",
        "--memory",
        "memory",
        callback=read,
        metavar="SIZE",
        help="Memory that each process may use, such as 2GB; by default what the machine or its control group has.",
    )(command)


def read_size(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Read width and height, such as ``1200x1000``."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a size: give width and height, such as 1200x1000.")
    return int(width), int(height)


def read_names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read names of columns with commas between, such as ``name,section``; None when the option is not given."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def read_whole_numbers(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Read whole numbers with commas between, such as ``10,15,50``."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not accepted: give whole numbers, such as 10,15,50.") from error


@contextmanager
def shown_progress(quiet: bool, verbose: bool) -> Iterator[Emit]:
    """Give the listener that shows the progress of a command on standard error."""
    if quiet:
        yield lambda event: None
        return
    from nomad_dask.callbacks.progress_bars import progress_bars

    with progress_bars(verbose=verbose) as emit:
        yield emit


def check_picture(path: Path, overwrite: bool) -> None:
    """Refuse a picture before any work is done for it.

    Raises
    ------
    InputError
        Its path is refused, or what draws is not installed.
    """
    from nomad_dask.pipeline.setup import check_output

    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{path} is not accepted: pictures are PNG or SVG, give a name ending in .png or .svg.")
    check_output(path, overwrite)
    check_plotting()


def check_plotting() -> None:
    """Refuse to go on when what draws is not installed.

    Raises
    ------
    InputError
    """
    from importlib.util import find_spec

    if find_spec("datashader") is None:
        raise InputError("Pictures need datashader, which is not installed: pip install 'nomad-dask[plot]'.")


def write_json(result: dict[str, Any]) -> None:
    """Write a result on standard output as one JSON object."""
    click.echo(json.dumps(result, default=_plain))


def _plain(value: Any) -> Any:
    """Return a NumPy scalar or array, or a path, as JSON knows it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def scores_table(scores: Scores) -> str:
    """Return scores as text for people, one a line with its 95 % confidence interval."""
    rows = [(f"NP@{k}", estimate) for k, estimate in scores.neighbors.items()]
    rows.append(("RTA", scores.triplets))
    if scores.labels is not None:
        rows.append(("label accuracy", scores.labels))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {e.value:.3f}  ({e.low:.3f} to {e.high:.3f})" for name, e in rows)


def program() -> str:
    """Return what the user types to run this program, for commands that messages propose."""
    name = "nomad-dask"
    called = Path(sys.argv[0]).absolute()
    if called.name != name or shutil.which(name) == str(called):
        return name
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)
