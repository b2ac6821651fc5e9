"""The options of the method, and the parameters that they become."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from nomad_dask.cli.options import Command
from nomad_dask.errors import InputError, suggest
from nomad_dask.params import AFFINITIES, METRICS, PRESETS, Params

if TYPE_CHECKING:
    from nomad_dask.pipeline.given_init import GivenPositions

# Names of the option, short ones last; its parameter; and its type. The other parameters are set by --set.
_OPTIONS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("--n-neighbors", "--neighbors"), "n_neighbors", click.INT),
    (("--n-epochs", "--epochs"), "n_epochs", click.INT),
    (("--preset",), "preset", click.Choice(PRESETS)),
    (("--learning-rate",), "learning_rate", click.FLOAT),
    (("--n-cells", "--cells"), "n_cells", click.INT),
    (("--n-shards", "--shards"), "n_shards", click.INT),
    (("--init",), "init", click.STRING),
    (("--metric",), "metric", click.Choice(METRICS)),
    (("--affinity", "--weights"), "affinity", click.Choice(AFFINITIES)),
    (("--random-state", "--seed"), "random_state", click.INT),
)
_NAMES = tuple(name for _, name, _ in _OPTIONS)


def method_options(command: Command) -> Command:
    """Add options of the method: one for every parameter in `_OPTIONS`, and ``--set`` for the rest.

    The command receives ``params``, and ``given_positions``: the initial positions if they are given, or None.
    """

    @wraps(command)
    def with_params(assignments: tuple[str, ...], **values: Any) -> Any:
        given = {name: value for name in _NAMES if (value := values.pop(name)) is not None}
        params, given_positions = read_params(given, assignments)
        return command(params=params, given_positions=given_positions, **values)

    decorated: Command = with_params
    texts, defaults = Params.describe(), {field.name: field.default for field in fields(Params)}
    others = ", ".join(name for name in texts if name not in _NAMES)
    decorated = click.option(
        "--set",
        "assignments",
        metavar="NAME=VALUE",
        multiple=True,
        help=f"Any other parameter of the method; can be used several times: {others}.",
    )(decorated)
    for names, parameter, kind in reversed(_OPTIONS):
        default = defaults[parameter]
        # What None means in Python is an option left out here.
        text = texts[parameter].replace("; None takes", "; by default")
        text = text if default is None else f"{text}  [default: {default}]"
        decorated = click.option(*names, parameter, type=kind, help=text)(decorated)
    return decorated


def read_params(given: dict[str, Any], assignments: Sequence[str]) -> tuple[Params, GivenPositions | None]:
    """Return the parameters of the options that were given, and the initial positions if they are given.

    Parameters
    ----------
    given : dict
        Values of the options by parameter name.
    assignments : sequence of str
        ``name=value`` of each ``--set``.

    Raises
    ------
    InputError
        A parameter does not exist, is given twice, or has a value that is not accepted.
    """
    values, names = dict(given), Params.describe()
    for text in assignments:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator:
            raise InputError(f"--set {text!r} is not accepted: use NAME=VALUE, such as --set momentum=0.9.")
        if name not in names:
            raise InputError(f"--set {text!r}: there is no parameter {name!r}. {suggest(name, names)}")
        if name in values:
            raise InputError(f"{name} is given twice: leave out --set {text!r} or the other.")
        values[name] = _parse(value.strip())
    given_positions = None
    if "init" in values:
        from nomad_dask.pipeline.given_init import resolve_init

        values["init"], given_positions = resolve_init(values["init"])
    return Params(**values), given_positions


def _parse(text: str) -> Any:
    """Return a number, True, False or None; anything else stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
