"""An interactive view of a map in a notebook: jupyter-scatter for millions of points, datashader for more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.color_mapping import map_colors, select_rows
from nomad_dask.plotting.datashader_view import datashader_view
from nomad_dask.plotting.palettes import THEMES
from nomad_dask.plotting.raster import check_size
from nomad_dask.plotting.scatter_view import scatter_view
from nomad_dask.plotting.view_data import ViewData

MAX_SCATTER_POINTS = 5_000_000


def explore(
    x: np.ndarray,
    y: np.ndarray,
    table: Any,
    color: str | None = None,
    hover: Sequence[str] = (),
    theme: str = "dark",
    size: tuple[int, int] = (900, 700),
) -> Any:
    """Return a view of a map that a notebook shows when it is the last value of a cell.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; rows with NaN are left out.
    table : pyarrow.Table (n_rows)
        Columns for colors and hover texts.
    color : str, optional
        Column of categories or numbers; density without it.
    hover : sequence of str
        Columns to show for the point under the pointer.
    theme : {'dark', 'light'}
    size : tuple of int
        Width and height in pixels.

    Returns
    -------
    jscatter.Scatter
        For up to 5 million points. Its data frame is indexed by the rows of the map.
    holoviews.DynamicMap or holoviews.Overlay
        For more points: a picture that is drawn again at every zoom.

    Raises
    ------
    InputError
        A column does not exist, or a required package is not installed.
    """
    if not isinstance(theme, str) or theme not in THEMES:
        raise InputError(f"theme={theme!r} is not accepted. {suggest(str(theme), THEMES)}")
    check_size(size, 1)
    if isinstance(hover, str) or not isinstance(hover, Iterable):
        raise InputError(f"hover={hover!r} is one name: pass a list of names, such as [{str(hover)!r}].")
    for name in [*hover, *([] if color is None else [color])]:
        if name not in table.column_names:
            raise InputError(f"The map has no column {name!r}. {suggest(str(name), table.column_names)}")
    rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not rows.size:
        raise InputError("The map has no point with a position: there is nothing to explore.")
    if rows.size < len(x):
        x, y, table = x[rows], y[rows], select_rows(table, rows)
    colors = None if color is None else map_colors(table.column(color), THEMES[theme], color)
    data = ViewData(x, y, rows, table, color, colors, list(dict.fromkeys(hover)), THEMES[theme], size)
    return scatter_view(data) if rows.size <= MAX_SCATTER_POINTS else datashader_view(data)
