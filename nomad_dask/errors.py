"""Errors and their exit codes. Every message names the value, says what is accepted and ends with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class NomadError(Exception):
    """Base class of all errors that this package raises deliberately.

    Attributes
    ----------
    exit_code : int
        Exit code of the command line for this error.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Dask serializes errors with tblib, which cannot construct subclasses of MemoryError by itself.
        return type(self), self.args


class InputError(NomadError, ValueError):
    """Wrong use or invalid input: a value out of range, or data that cannot be mapped."""

    exit_code = 2


class MissingInputError(NomadError, FileNotFoundError):
    """A given file or directory does not exist."""

    exit_code = 2


class WorkspaceError(NomadError, ValueError):
    """A workspace belongs to another run, is in use, or is damaged."""

    exit_code = 2


class ClusterError(NomadError, RuntimeError):
    """A Dask cluster cannot do the work: it has no workers, does not answer, or runs other versions."""

    exit_code = 2


class ResourceError(NomadError, MemoryError):
    """There is not enough memory or disk space; if possible, this is reported before the work starts."""

    exit_code = 3


class DeviceMemoryError(ResourceError):
    """A GPU has not enough memory for a step; a smaller step may fit."""


class Interrupted(NomadError, KeyboardInterrupt):  # noqa: N818 - an interrupt is not an error
    """The user stopped the run; the workspace keeps the completed work."""

    exit_code = 4


class NomadWarning(UserWarning):
    """A condition that does not stop the run, but that the user should know."""


def suggest(wrong: str, accepted: Iterable[str]) -> str:
    """Return a hint with the accepted values most similar to a wrong one, or else with all accepted values."""
    names = list(accepted)
    close = get_close_matches(wrong, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
    return f"There is {shown}." if names else "There are none."
