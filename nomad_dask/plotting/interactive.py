"""A map to move about in, in a notebook: jupyter-scatter as far as it goes, datashader by holoviews above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.color_mapping import Categories, Numbers, coloring, rows_of
from nomad_dask.plotting.palettes import THEMES, Theme, color_map
from nomad_dask.plotting.raster import radius_of, ranges_of

MOST_POINTS = 5_000_000  # that jupyter-scatter is given
_LONG_TEXT = 40  # characters, from which a column is shown in lines below the others
_LONGEST = 1000  # characters of a text that are shown
_LARGEST_RADIUS = 4  # pixels of a point
_REACH = 8  # pixels from the pointer within which a point is told of


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
        Columns to colour by and to tell of.
    color : str, optional
        Column of categories or numbers; density without it.
    hover : sequence of str
        Columns to show of the point under the pointer.
    theme : {'dark', 'light'}
    size : tuple of int
        Width and height in pixels.

    Returns
    -------
    jscatter.Scatter
        Up to 5 million points. Its frame is indexed by the rows of the map.
    holoviews.DynamicMap or holoviews.Overlay
        Above: a picture that is made anew at every zoom.

    Raises
    ------
    InputError
        A column does not exist, or what shows the view is not installed.
    """
    if theme not in THEMES:
        raise InputError(f"theme={theme!r} is not accepted. {suggest(theme, THEMES)}")
    if isinstance(hover, str):
        raise InputError(f"hover={hover!r} is one name: give a list of them, such as [{hover!r}].")
    for name in [*hover, *([] if color is None else [color])]:
        if name not in table.column_names:
            raise InputError(f"The map has no column {name!r}. {suggest(name, table.column_names)}")
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not shown.size:
        raise InputError("The map has no point with a position: there is nothing to explore.")
    look = THEMES[theme]
    if shown.size < len(x):
        x, y, table = x[shown], y[shown], rows_of(table, shown)
    colored = None if color is None else coloring(table.column(color), look)
    told = list(dict.fromkeys(hover))
    if shown.size <= MOST_POINTS:
        return _scatter(x, y, shown, table, color, colored, told, look, size)
    return _shaded(x, y, table, color, colored, told, look, size)


def _scatter(
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    table: Any,
    color: str | None,
    colored: Categories | Numbers | None,
    hover: list[str],
    look: Theme,
    size: tuple[int, int],
) -> Any:
    """Return a view of every point."""
    try:
        import jscatter
    except ImportError as error:
        raise _missing("jupyter-scatter", error) from error
    import pandas as pd

    columns: dict[str, Any] = {"x": x, "y": y}
    texts = [name for name in hover if name not in columns]
    columns |= {name: _as_text(table.column(name)).to_pandas() for name in texts}
    of_color: dict[str, Any] = {}
    # Its frequent values only, so that it cannot stand for the column that is told of.
    by = f"{color} (colour)" if color in columns else color
    if isinstance(colored, Categories):
        columns[str(by)] = _categorical(colored)
        names = columns[str(by)].categories
        of_color = {"by": by, "map": dict(zip(names, colored.colors, strict=True)), "order": list(names)}
    elif isinstance(colored, Numbers):
        columns[str(by)], of_color = _scale(colored, look)
        of_color["by"] = by
    frame = pd.DataFrame(columns)
    frame.index = pd.Index(rows)
    # Both axes over one span: a map is not to be stretched.
    half = max(float(np.ptp(x)), float(np.ptp(y)), float(np.finfo(np.float32).tiny)) / 2
    middle = [float(axis.min()) + float(np.ptp(axis)) / 2 for axis in (x, y)]
    view = jscatter.Scatter(
        x="x",
        y="y",
        data=frame,
        data_use_index=True,
        x_scale=(middle[0] - half, middle[0] + half),
        y_scale=(middle[1] - half, middle[1] + half),
        width=size[0],
        height=size[1],
        background_color=look.background,
        axes=False,
    )
    if of_color:
        view.color(default=look.grey, **of_color)
        view.legend(True)
    else:
        view.color(default=color_map(look.density, look.density_part)[128].tolist())
    if hover or color is not None:
        long = next((name for name in texts if _mean_length(table.column(name)) > _LONG_TEXT), None)
        told = [*(["color"] if of_color else []), *(name for name in hover if name != long)]
        view.tooltip(True, properties=told, size="medium", **({} if long is None else {"preview": long}))
    return view


def _shaded(
    x: np.ndarray,
    y: np.ndarray,
    table: Any,
    color: str | None,
    colored: Categories | Numbers | None,
    hover: list[str],
    look: Theme,
    size: tuple[int, int],
) -> Any:
    """Return a picture that is made anew from all points at every zoom."""
    try:
        import holoviews as hv
        from holoviews.operation.datashader import rasterize, shade
    except ImportError as error:
        raise _missing("holoviews", error) from error
    import datashader as ds
    import pandas as pd

    hv.extension("bokeh")
    frame = pd.DataFrame({"x": x, "y": y})
    # A unit is as long across as up from the start, and stays so: holoviews' own `data_aspect` moves the ranges in
    # the browser, and then the picture covers a part of the view.
    axes = [hv.Dimension(name, range=shown) for name, shown in zip("xy", ranges_of(x, y, size), strict=True)]
    pixels = {"width": size[0], "height": size[1]}
    if isinstance(colored, Categories):
        frame["color"] = _categorical(colored)
        names = list(frame["color"].cat.categories)
        counted = rasterize(hv.Points(frame, axes, ["color"]), aggregator=ds.count_cat("color"), **pixels)
        picture = shade(counted.apply(_spread), color_key=dict(zip(names, colored.colors, strict=True)), min_alpha=90)
        picture = picture.opts(hv.opts.RGB(legend_position="right"))
    elif isinstance(colored, Numbers):
        frame["color"] = colored.values
        means = rasterize(hv.Points(frame, axes, ["color"]), aggregator=ds.mean("color"), **pixels)
        scale = {"cmap": _hex(colored.colors), "clim": (colored.low, colored.high), "colorbar": True}
        picture = means.apply(_spread).opts(hv.opts.Image(**scale, clabel=str(color)))
    else:
        counted = rasterize(hv.Points(frame, axes), aggregator=ds.count(), **pixels)
        colors = _hex(color_map(look.density, look.density_part))
        picture = counted.apply(_spread).opts(hv.opts.Image(cmap=colors, cnorm="eq_hist"))
    if hover:
        picture = picture * _under_pointer(hv, axes, x, y, table, hover, look, size)
    frame_of = {"frame_width": size[0], "frame_height": size[1], "bgcolor": look.background}
    frame_of |= {"xlim": axes[0].range, "ylim": axes[1].range, "xaxis": None, "yaxis": None}
    frame_of |= {"default_tools": ["pan", "wheel_zoom", "reset", "save"], "active_tools": ["pan", "wheel_zoom"]}
    kinds = (hv.opts.Image, hv.opts.RGB, hv.opts.Points, hv.opts.Overlay)
    return picture.opts(*(kind(**frame_of) for kind in kinds))


def _spread(picture: Any) -> Any:
    """Spread the points of a picture as `raster` does: few become discs, millions stay pixels."""
    from holoviews.operation.datashader import spread

    planes = [picture.dimension_values(plane, flat=False) for plane in picture.vdims]
    taken = np.any([np.isfinite(p) if p.dtype.kind == "f" else p > 0 for p in planes], axis=0)
    if not taken.any():
        return picture
    # Where points meet the larger value holds: added up, as is usual, they would be values that no point has.
    return spread(picture, px=min(radius_of(taken), _LARGEST_RADIUS), how="max")


def _under_pointer(
    hv: Any,
    axes: list[Any],
    x: np.ndarray,
    y: np.ndarray,
    table: Any,
    hover: list[str],
    look: Theme,
    size: tuple[int, int],
) -> Any:
    """Return a ring around the point nearest to the pointer, with a card of its columns."""
    from bokeh.models import HoverTool

    by_x = np.argsort(x, kind="stable")
    sorted_x = x[by_x]
    fields = [f"column_{i}" for i in range(len(hover))]
    card = HoverTool(tooltips=[(name, f"@{field}") for name, field in zip(hover, fields, strict=True)])

    def ring(x: float | None, y: float | None, x_range: Any, y_range: Any) -> Any:
        row = None if x is None or y is None else nearest(x, y, x_range, y_range)
        found: list[tuple[Any, ...]] = []
        if row is not None:
            values = [_as_text(table.column(name).slice(row, 1))[0].as_py() for name in hover]
            found = [(float(all_x[row]), float(all_y[row]), *values)]
        return hv.Points(found, axes, fields).opts(
            tools=[card], size=12, fill_alpha=0, line_color=look.text, line_width=2
        )

    all_x, all_y = x, y
    whole_x, whole_y = (axis.range for axis in axes)

    def nearest(at_x: float, at_y: float, x_range: Any, y_range: Any) -> int | None:
        reach = [
            _REACH * (high - low) / pixels
            for (low, high), pixels in zip((x_range or whole_x, y_range or whole_y), size, strict=True)
        ]
        first, last = np.searchsorted(sorted_x, [at_x - reach[0], at_x + reach[0]])
        rows = by_x[first:last]
        away = ((all_x[rows] - at_x) / reach[0]) ** 2 + ((all_y[rows] - at_y) / reach[1]) ** 2
        return int(rows[away.argmin()]) if away.size and away.min() <= 1 else None

    streams = [hv.streams.PointerXY(x=None, y=None), hv.streams.RangeXY()]
    return hv.DynamicMap(ring, streams=streams)


def _as_text(column: Any) -> Any:
    """Return an Arrow column as strings of what can be shown; missing values are empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = pc.cast(column, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        column = pa.chunked_array([[None if v is None else str(v) for v in column.to_pylist()]], pa.large_string())
    return pc.fill_null(pc.utf8_slice_codeunits(column, 0, _LONGEST), "")


def _mean_length(column: Any) -> float:
    """Return how long the texts of a column are, in characters, by its first rows."""
    texts = _as_text(column.slice(0, 1000)).to_pylist()
    return sum(map(len, texts)) / max(1, len(texts))


def _scale(numbers: Numbers, look: Theme) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values within the scale, and the scale as jupyter-scatter has it; missing ones are grey, below it."""
    values, colors, low = np.clip(numbers.values, numbers.low, numbers.high), _hex(numbers.colors), numbers.low
    if np.isnan(values).any():
        low -= (numbers.high - numbers.low) / (len(colors) - 1) or 1.0
        values, colors = np.nan_to_num(values, nan=low), [look.grey, *colors]
    return values.astype(np.float32), {"map": colors, "norm": (low, numbers.high)}


def _categorical(colored: Categories) -> Any:
    """Return categories as pandas has them."""
    import pandas as pd

    from_codes: Any = pd.Categorical.from_codes
    return from_codes(colored.codes, _distinct(colored.names))


def _distinct(names: list[str]) -> list[str]:
    """Return names of which none is there twice, as 1 and "1", or a value "missing", would be."""
    seen: list[str] = []
    for name in names:
        while name in seen:
            name += " "
        seen.append(name)
    return seen


def _hex(colors: np.ndarray) -> list[str]:
    return ["#" + bytes((c * 255).round().astype(np.uint8)).hex() for c in colors]


def _missing(package: str, error: ImportError) -> InputError:
    return InputError(
        f"explore needs {package}, which cannot be imported ({error}): pip install 'nomad-dask[notebook]'."
    )
