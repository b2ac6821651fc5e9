"""Pictures and notebook views of any object that holds a map; from a file, only the required columns are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nomad_dask.errors import InputError
from nomad_dask.maps.map import Map
from nomad_dask.maps.open import as_map, read_map
from nomad_dask.storage.output_paths import Target, check_targets, output_path
from nomad_dask.utils.array_types import AXES


def plot(
    x: Any,
    path: str | os.PathLike[str],
    *,
    color: str | None = None,
    labels: str | None = None,
    label_text: str | None = None,
    **settings: Any,
) -> Path:
    """Draw a map as a PNG or SVG file, and return its path.

    Parameters
    ----------
    x : Map, path-like, pyarrow.Table, or data frame of pandas, cuDF or Polars
        As in `as_map`; from a file, only the columns named here are read.
    path, color, labels, label_text
        As in `Map.plot`.
    **settings
        Further arguments of `Map.plot`.
    """
    if isinstance(x, str | os.PathLike):
        check_targets([Target("picture", output_path(path, "picture"))], [os.fspath(x)])
    # The cells tell which rows are near each other; a map from elsewhere may have none.
    optional_columns = [] if label_text is None else ["cell"]
    shown = _open_columns(x, [color, labels, label_text], optional_columns)
    return shown.plot(path, color=color, labels=labels, label_text=label_text, **settings)


def explore(x: Any, color: str | None = None, hover: Sequence[str] = (), **settings: Any) -> Any:
    """Return an interactive view of a map for a notebook.

    Parameters
    ----------
    x : Map, path-like, pyarrow.Table, or data frame of pandas, cuDF or Polars
        As in `as_map`; from a file, only the columns named here are read.
    color, hover
        As in `Map.explore`.
    **settings
        Further arguments of `Map.explore`.
    """
    if isinstance(hover, str) or not isinstance(hover, Iterable):
        raise InputError(f"hover={hover!r} is one name: pass a list of names, such as [{str(hover)!r}].")
    names = list(hover)
    return _open_columns(x, [color, *names]).explore(color, names, **settings)


def _open_columns(x: Any, names: Sequence[str | None], optional_columns: Sequence[str] = ()) -> Map:
    """Return any object that holds a map as a `Map`; from a file, read only these columns and the positions."""
    if isinstance(x, str | os.PathLike):
        return read_map(x, [str(name) for name in names if name is not None and name not in AXES], optional_columns)
    return as_map(x)
