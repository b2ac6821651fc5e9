"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from nomad_dask.storage.output_paths import output_path

Command = Callable[..., Any]

# Set in the context by -v, for the code that reports errors and progress.
VERBOSE = "nomad_dask.verbose"


def read_path(what: str) -> Callable[[click.Context, click.Parameter, str | None], Path | None]:
    """Return a callback that reads the path of something that is written; None if the option is not given.

    Parameters
    ----------
    what : str
        What is written, for messages.
    """

    def read(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
        return None if value is None else output_path(value, what)

    return read


def grouped(name: str, kind: type) -> Callable[[Command], Command]:
    """Pass the values of the options that are fields of a dataclass as one argument.

    Parameters
    ----------
    name : str
        Name of the argument.
    kind : type
        The dataclass.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_group(**values: Any) -> Any:
            group = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            return command(**{name: group}, **values)

        return with_group

    return decorate


def input_options(command: Command) -> Command:
    """Add the input and the choice of its column."""
    command = click.option(
        "--column",
        metavar="NAME",
        help="Column of the vectors; by default the only column that can hold them.",
    )(command)
    return click.argument("input", metavar="INPUT")(command)


def verbose_option(command: Command) -> Command:
    """Add ``-v``, which is kept in the context instead of being passed to the command."""

    def store(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[VERBOSE] = True

    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=store,
        help="Write a line for every stage, and the traceback of an error.",
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
        help="Where to compute; auto uses a GPU if one works.",
    )(command)


def memory_option(command: Command) -> Command:
    """Add ``--memory-limit``."""

    def read(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        from nomad_dask.utils.memory import parse_bytes

        return parse_bytes(value)

    return click.option(
        "--memory-limit",
        "--memory",
        "memory_limit",
        callback=read,
        metavar="SIZE",
        help="Memory for each process, such as 2GB; by default the memory of the machine or its control group.",
    )(command)


def read_size(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Read width and height, such as ``1200x1000``."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a size: use width and height, such as 1200x1000.")
    return int(width), int(height)


def read_names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read names of columns separated by commas, such as ``name,section``; None if the option is not given."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def model_argument(command: Command) -> Command:
    """Add the model that is read."""
    return click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")(command)


def workers_option(command: Command) -> Command:
    """Add ``--n-workers``."""
    return click.option("--n-workers", type=click.IntRange(min=1), help="Worker processes of the embedded cluster.")(
        command
    )


def overwrite_option(command: Command) -> Command:
    """Add ``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help="Replace existing output.")(command)


def axes_option(command: Command) -> Command:
    """Add ``--axes``."""
    return click.option(
        "--axes",
        callback=read_names,
        metavar="A,B",
        help="The two axes to show of a map in three dimensions, such as x,z; x,y by default.",
    )(command)


def read_whole_numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read whole numbers separated by commas, such as ``10,15,50``; None if the option is not given."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not accepted: use whole numbers, such as 10,15,50.") from error
