"""The data of an interactive view of a map, in the forms that its libraries take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.plotting.color_mapping import CategoryColors, NumberColors
from nomad_dask.plotting.palettes import Theme

_MAX_CHARACTERS = 1000  # of a text


@dataclass(frozen=True)
class ViewData:
    """What a view shows.

    Attributes
    ----------
    x, y : ndarray of shape (n_points,)
        Finite positions.
    rows : ndarray of int64 (n_points,)
        Rows of the map.
    table : pyarrow.Table (n_points)
    color : str or None
        Name of the column of the colors.
    colors : CategoryColors or NumberColors or None
        Its colors.
    hover : list of str
        Columns to show for the point under the pointer.
    theme : Theme
    size : tuple of int
        Width and height in pixels.
    """

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    table: Any
    color: str | None
    colors: CategoryColors | NumberColors | None
    hover: list[str]
    theme: Theme
    size: tuple[int, int]


def to_text(column: Any) -> Any:
    """Return an Arrow column as strings of limited length; missing values are empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = pc.cast(column, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        column = pa.chunked_array([[None if v is None else str(v) for v in column.to_pylist()]], pa.large_string())
    return pc.fill_null(pc.utf8_slice_codeunits(column, 0, _MAX_CHARACTERS), "")


def to_categorical(colors: CategoryColors) -> Any:
    """Return categories as a pandas Categorical."""
    import pandas as pd

    from_codes: Any = pd.Categorical.from_codes
    return from_codes(colors.codes, _make_unique(colors.names))


def _make_unique(names: list[str]) -> list[str]:
    """Return the names without duplicates, such as those of 1 and "1", or of a value "missing"."""
    unique: list[str] = []
    for name in names:
        while name in unique:
            name += " "
        unique.append(name)
    return unique


def to_hex(colors: np.ndarray) -> list[str]:
    """Return sRGB colors (n, 3) from 0 to 1 as ``#rrggbb``."""
    return ["#" + bytes((c * 255).round().astype(np.uint8)).hex() for c in colors]


def missing_package(name: str, error: ImportError) -> InputError:
    """Return the error of a package that cannot be imported."""
    return InputError(f"explore needs {name}, which cannot be imported ({error}): pip install 'nomad-dask[notebook]'.")
