"""A view of every point, by jupyter-scatter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.plotting.color_mapping import CategoryColors, NumberColors
from nomad_dask.plotting.palettes import Theme, color_map
from nomad_dask.plotting.view_data import ViewData, missing_package, to_categorical, to_hex, to_text

_FAR = 2.0**60  # coordinates whose squares float32 holds
_MIN_LONG_TEXT = 40  # characters on average from which a column is shown below the others


def scatter_view(data: ViewData) -> Any:
    """Return a ``jscatter.Scatter`` of all points.

    Raises
    ------
    InputError
        jupyter-scatter is not installed.
    """
    try:
        import jscatter
    except ImportError as error:
        raise missing_package("jupyter-scatter", error) from error
    data = _near_zero(data)
    frame, encoding = _make_frame(data)
    # The same range for both axes, so that the map is not stretched.
    spans = [float(axis.max()) - float(axis.min()) for axis in (data.x, data.y)]
    half = max(*spans, float(np.finfo(np.float32).tiny)) / 2
    middle = [float(axis.min()) + span / 2 for axis, span in zip((data.x, data.y), spans, strict=True)]
    view = jscatter.Scatter(
        x="x",
        y="y",
        data=frame,
        data_use_index=True,
        x_scale=(middle[0] - half, middle[0] + half),
        y_scale=(middle[1] - half, middle[1] + half),
        width=data.size[0],
        height=data.size[1],
        background_color=data.theme.background,
        axes=False,
    )
    if encoding:
        view.color(default=data.theme.gray, **encoding)
        view.legend(True)
    else:
        view.color(default=color_map(data.theme.density, data.theme.density_range)[128].tolist())
    if data.hover or encoding:
        long = next(
            (name for name in _text_columns(data) if _mean_length(data.table.column(name)) > _MIN_LONG_TEXT), None
        )
        properties = [*(["color"] if encoding else []), *(name for name in data.hover if name != long)]
        view.tooltip(True, properties=properties, size="medium", **({} if long is None else {"preview": long}))
    return view


def _near_zero(data: ViewData) -> ViewData:
    """Return points that the widget, which computes in float32, can show: those far from zero are moved or scaled."""
    far = max(float(np.abs(axis).max()) for axis in (data.x, data.y))
    span = max(float(axis.max()) - float(axis.min()) for axis in (data.x, data.y))
    if span > far * 2.0**-14 and far < _FAR:
        return data
    factor = _FAR / far if far > _FAR else 1.0
    x, y = ((axis.astype(np.float64) - float(axis.min())) * factor for axis in (data.x, data.y))
    return replace(data, x=x.astype(np.float32), y=y.astype(np.float32))


def _text_columns(data: ViewData) -> list[str]:
    """Return the hover columns that are shown as text: all but the axes."""
    return [name for name in data.hover if name not in ("x", "y")]


def _make_frame(data: ViewData) -> tuple[Any, dict[str, Any]]:
    """Return the data frame of the view, and the arguments of its color encoding; empty without colors."""
    import pandas as pd

    columns: dict[str, Any] = {"x": data.x, "y": data.y}
    columns |= {name: to_text(data.table.column(name)).to_pandas() for name in _text_columns(data)}
    encoding: dict[str, Any] = {}
    # The column of colors has frequent values only, so a hover column of the same name needs its own.
    name = f"{data.color} (color)" if data.color in columns else str(data.color)
    if isinstance(data.colors, CategoryColors):
        columns[name] = to_categorical(data.colors)
        categories = columns[name].categories
        encoding = {
            "by": name,
            "map": dict(zip(categories, data.colors.colors, strict=True)),
            "order": list(categories),
        }
    elif isinstance(data.colors, NumberColors):
        columns[name], encoding = _make_scale(data.colors, data.theme)
        encoding["by"] = name
    frame = pd.DataFrame(columns)
    frame.index = pd.Index(data.rows)
    return frame, encoding


def _make_scale(numbers: NumberColors, theme: Theme) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values clipped to the scale, and the scale for jupyter-scatter; missing values are gray, below it.

    Raises
    ------
    InputError
        The widget, which has float32, cannot hold the values.
    """
    if max(abs(numbers.low), abs(numbers.high)) > float(np.finfo(np.float32).max) / 4:
        raise InputError(
            f"The colors are numbers from {numbers.low:.3g} to {numbers.high:.3g}, beyond the range of float32 that a "
            "notebook view has: scale the column down."
        )
    values, colors, low = np.clip(numbers.values, numbers.low, numbers.high), to_hex(numbers.colors), numbers.low
    if np.isnan(values).any():
        low -= (numbers.high - numbers.low) / (len(colors) - 1) or 1.0
        values, colors = np.nan_to_num(values, nan=low), [theme.gray, *colors]
    return values.astype(np.float32), {"map": colors, "norm": (low, numbers.high)}


def _mean_length(column: Any) -> float:
    """Return the mean number of characters of a column, from its first rows."""
    texts = to_text(column.slice(0, 1000)).to_pylist()
    return sum(map(len, texts)) / max(1, len(texts))
