"""A view of more points than a browser holds: a picture by datashader, drawn again at every zoom."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.plotting.color_mapping import CategoryColors, NumberColors
from nomad_dask.plotting.palettes import color_map
from nomad_dask.plotting.shading import axis_ranges, point_radius
from nomad_dask.plotting.view_data import ViewData, missing_package, to_categorical, to_hex, to_text

_MAX_RADIUS = 4  # pixels of a point
_HOVER_DISTANCE = 8  # pixels between the pointer and the point that is shown


def datashader_view(data: ViewData) -> Any:
    """Return a ``holoviews.DynamicMap``, or a ``holoviews.Overlay`` with hover columns.

    Raises
    ------
    InputError
        holoviews is not installed.
    """
    try:
        import holoviews as hv
        import holoviews.operation.datashader
    except ImportError as error:
        raise missing_package("holoviews", error) from error
    hv.extension("bokeh")
    # Both axes have the same scale from the start: with holoviews' own `data_aspect` the browser changes the ranges,
    # and the picture covers only a part of the view.
    ranges = axis_ranges(data.x, data.y, data.size)
    axes = [hv.Dimension(name, range=limits) for name, limits in zip("xy", ranges, strict=True)]
    view = _picture(data, axes)
    if data.hover:
        view = view * _hover_ring(data, axes)
    options = {"frame_width": data.size[0], "frame_height": data.size[1], "bgcolor": data.theme.background}
    options |= {"xlim": axes[0].range, "ylim": axes[1].range, "xaxis": None, "yaxis": None}
    options |= {"default_tools": ["pan", "wheel_zoom", "reset", "save"], "active_tools": ["pan", "wheel_zoom"]}
    kinds = (hv.opts.Image, hv.opts.RGB, hv.opts.Points, hv.opts.Overlay)
    return view.opts(*(kind(**options) for kind in kinds))


def _picture(data: ViewData, axes: list[Any]) -> Any:
    """Return a dynamic picture of the points in their colors."""
    import datashader as ds
    import holoviews as hv
    import pandas as pd
    from holoviews.operation.datashader import rasterize, shade

    frame = pd.DataFrame({"x": data.x, "y": data.y})
    pixels = {"width": data.size[0], "height": data.size[1]}
    if isinstance(data.colors, CategoryColors):
        frame["color"] = to_categorical(data.colors)
        names = list(frame["color"].cat.categories)
        counts = rasterize(hv.Points(frame, axes, ["color"]), aggregator=ds.count_cat("color"), **pixels)
        color_key = dict(zip(names, data.colors.colors, strict=True))
        picture = shade(counts.apply(_spread), color_key=color_key, min_alpha=90)
        return picture.opts(hv.opts.RGB(legend_position="right"))
    if isinstance(data.colors, NumberColors):
        frame["color"] = data.colors.values
        means = rasterize(hv.Points(frame, axes, ["color"]), aggregator=ds.mean("color"), **pixels)
        limits = (data.colors.low, data.colors.high)
        scale = {"cmap": to_hex(data.colors.colors), "clim": limits, "colorbar": True}
        return means.apply(_spread).opts(hv.opts.Image(**scale, clabel=str(data.color)))
    counts = rasterize(hv.Points(frame, axes), aggregator=ds.count(), **pixels)
    colors = to_hex(color_map(data.theme.density, data.theme.density_range))
    return counts.apply(_spread).opts(hv.opts.Image(cmap=colors, cnorm="eq_hist"))


def _spread(picture: Any) -> Any:
    """Spread the points of a picture as in files: a few become discs, millions stay single pixels."""
    from holoviews.operation.datashader import spread

    planes = [picture.dimension_values(plane, flat=False) for plane in picture.vdims]
    occupied = np.any([np.isfinite(p) if p.dtype.kind == "f" else p > 0 for p in planes], axis=0)
    if not occupied.any():
        return picture
    # Overlapping points keep the larger value: the sum, the default, would be a value that no point has.
    return spread(picture, px=min(point_radius(occupied), _MAX_RADIUS), how="max")


class _NearestPoint:
    """Finds the point nearest to a position in a view.

    Parameters
    ----------
    data : ViewData
    ranges : list of tuple
        Ranges of both axes of the whole map.
    """

    def __init__(self, data: ViewData, ranges: list[tuple[float, float]]) -> None:
        self._data, self._ranges = data, ranges
        self._order = np.argsort(data.x, kind="stable")
        self._sorted_x = data.x[self._order]

    def find(self, at: tuple[float, float], x_range: Any, y_range: Any) -> int | None:
        """Return the index of the nearest point within a few pixels of a position; None if there is none.

        Parameters
        ----------
        at : tuple of float
        x_range, y_range : tuple of float or None
            Ranges that are visible; None for the whole map.
        """
        ranges = (x_range or self._ranges[0], y_range or self._ranges[1])
        x_reach, y_reach = (
            _HOVER_DISTANCE * (high - low) / pixels for (low, high), pixels in zip(ranges, self._data.size, strict=True)
        )
        start, stop = np.searchsorted(self._sorted_x, [at[0] - x_reach, at[0] + x_reach])
        rows = self._order[start:stop]
        distances = ((self._data.x[rows] - at[0]) / x_reach) ** 2 + ((self._data.y[rows] - at[1]) / y_reach) ** 2
        return int(rows[distances.argmin()]) if distances.size and distances.min() <= 1 else None


def _hover_ring(data: ViewData, axes: list[Any]) -> Any:
    """Return a ring around the point nearest to the pointer, with a tooltip of its columns."""
    import holoviews as hv
    from bokeh.models import HoverTool

    points = _NearestPoint(data, [axis.range for axis in axes])
    fields = [f"column_{i}" for i in range(len(data.hover))]
    tooltip = HoverTool(tooltips=[(name, f"@{field}") for name, field in zip(data.hover, fields, strict=True)])

    def ring(x: float | None, y: float | None, x_range: Any, y_range: Any) -> Any:
        row = None if x is None or y is None else points.find((x, y), x_range, y_range)
        records: list[tuple[Any, ...]] = []
        if row is not None:
            values = [to_text(data.table.column(name).slice(row, 1))[0].as_py() for name in data.hover]
            records = [(float(data.x[row]), float(data.y[row]), *values)]
        return hv.Points(records, axes, fields).opts(
            tools=[tooltip], size=12, fill_alpha=0, line_color=data.theme.text, line_width=2
        )

    streams = [hv.streams.PointerXY(x=None, y=None), hv.streams.RangeXY()]
    return hv.DynamicMap(ring, streams=streams)
