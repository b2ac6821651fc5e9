"""Initial positions that the user gives: an array, a map, or the path of one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.maps import read_map
from nomad_dask.params import INITS, REFINE, Params
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import to_host

_MAX_POSITION = 1e6


@dataclass(frozen=True)
class GivenPositions:
    """Initial positions that the user gives.

    Attributes
    ----------
    positions : ndarray of float32 (n_rows, n_components)
    path : str or None
        File of the map that they come from.
    """

    positions: np.ndarray
    path: str | None = None


def resolve_init(init: Any) -> tuple[str, GivenPositions | None]:
    """Return the value of `Params.init`, and the initial positions, if `init` gives some.

    Parameters
    ----------
    init : str, path-like, Map, data frame or array-like
        One of `INITS`, a map or its path, or positions.

    Raises
    ------
    InputError
        A string is neither one of `INITS` nor a file, or the positions are not finite numbers within the range.
    """
    if isinstance(init, str) and init in INITS:
        return init, None
    if isinstance(init, str) and not os.path.exists(init):  # noqa: PTH110 - `Path.exists` raises for too long a name
        raise InputError(f"init={init!r} is neither accepted nor the path of a map. {suggest(init, INITS)}")
    positions = _read_positions(init)
    digest = hashlib.sha256(f"{positions.shape}".encode() + positions.astype("<f4").tobytes()).hexdigest()[:32]
    path = os.fspath(init) if isinstance(init, str | os.PathLike) else None
    return f"given:{digest}", GivenPositions(positions, path)


def _read_positions(init: Any) -> np.ndarray:
    try:
        given = to_host(read_map(init, columns=()) if isinstance(init, str | os.PathLike) else init)
    except InputError:
        raise
    except ValueError as error:  # lists of unequal lengths
        raise InputError(f"init is no array ({error}): give an array of shape (n_samples, n_components).") from error
    if given.ndim != 2 or given.dtype.kind not in "iuf":
        raise InputError(
            f"init has shape {given.shape} and dtype {given.dtype}: give {', '.join(map(repr, INITS))}, a map, or an "
            "array of numbers of shape (n_samples, n_components)."
        )
    is_bad = ~(np.abs(given) <= _MAX_POSITION).all(axis=1)  # also for NaN
    if is_bad.any():
        row = int(is_bad.argmax())
        raise InputError(
            f"init has {given[row].tolist()} in row {row}: give finite positions from {-_MAX_POSITION:,.0f} to "
            f"{_MAX_POSITION:,.0f}."
        )
    return np.ascontiguousarray(given, np.float32)


def check_given_init(source: Source, params: Params, given: GivenPositions | None) -> None:
    """Check that given positions belong to the rows and the parameters of a run.

    Raises
    ------
    InputError
    """
    if not params.has_given_init:
        if params.preset == REFINE:
            raise InputError(
                f"preset={REFINE!r} refines a map that is given, and init is {params.init!r}: give init a map or its "
                "path, or use another preset."
            )
        return
    if given is None:
        raise InputError(f"init={params.init!r} stands for positions that are missing: give the positions themselves.")
    expected = (source.n_rows, params.n_components)
    if given.positions.shape != expected:
        raise InputError(
            f"init has shape {given.positions.shape}, and the map of {source.name} has shape {expected}: give one "
            "position for each row, in the order of the rows."
        )
    if params.coarse_init == "always":
        raise InputError("coarse_init='always' replaces the given init: leave out one of them.")
