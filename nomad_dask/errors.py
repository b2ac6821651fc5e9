"""What can go wrong, by kind. Every message names the value, says what is accepted and ends in what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class NomadError(Exception):
    """Base of every error raised on purpose by this package.

    Attributes
    ----------
    exit_code : int
        What the command line exits with when this error ends it.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Dask carries errors between processes by tblib, which cannot make a kind of MemoryError by itself.
        return type(self), self.args


class InputError(NomadError, ValueError):
    """Wrong use or bad input: a value out of range, data that cannot be mapped."""

    exit_code = 2


class MissingInputError(NomadError, FileNotFoundError):
    """A file or directory that was named does not exist."""

    exit_code = 2


class WorkspaceError(NomadError, ValueError):
    """A workspace that belongs to another run, or whose artifacts are damaged."""

    exit_code = 2


class ClusterError(NomadError, RuntimeError):
    """A Dask cluster that cannot do the work: no workers, no answer, other versions."""

    exit_code = 2


class ResourceError(NomadError, MemoryError):
    """Not enough memory or disk for the plan, said before the work starts."""

    exit_code = 3


class DeviceMemoryError(ResourceError):
    """A GPU without memory for a step; a smaller one may do."""


class Interrupted(NomadError, KeyboardInterrupt):  # noqa: N818 - an interrupt is no error
    """The run was stopped by the user; the workspace keeps what was done."""

    exit_code = 4


class NomadWarning(UserWarning):
    """Something that succeeded but that the user would want to know of."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return a hint naming the accepted values nearest to a wrong one."""
    known = list(known)
    close = get_close_matches(wrong, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, known[:20])) + (", …" if len(known) > 20 else "")
    return f"There is {shown}." if known else "There are none."
