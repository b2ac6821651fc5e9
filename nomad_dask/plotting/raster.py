"""Pictures of maps as files: the points, with title, legend and labels around them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.canvas import Canvas, PngCanvas, SvgCanvas
from nomad_dask.plotting.color_mapping import CategoryColors, NumberColors, map_colors, select_rows
from nomad_dask.plotting.column_values import as_arrow
from nomad_dask.plotting.label_placement import place_labels
from nomad_dask.plotting.labels import Label
from nomad_dask.plotting.legend import Bar, Entry, Panel, draw_title
from nomad_dask.plotting.palettes import THEMES, Theme
from nomad_dask.plotting.shading import Layer, axis_ranges, shade_points
from nomad_dask.storage.atomic import atomic_write

FORMATS = (".png", ".svg")
_MAX_THUMBNAIL_ROWS = 1_000_000
_MIN_PIXELS, _MAX_PIXELS = 200, 20_000  # of width and height
_MAX_SMOOTH_AREA = 8_000_000  # pixels up to which points are drawn at twice the size and halved, to smooth them


@dataclass(frozen=True)
class _Content:
    """What a picture shows: the arguments of `draw`, checked."""

    x: np.ndarray
    y: np.ndarray
    theme: Theme
    color: Any = None
    color_name: str | None = None
    labels: Sequence[Label] = ()
    title: str | None = None
    legend: bool = False


def draw(
    x: np.ndarray,
    y: np.ndarray,
    *,
    color: Any = None,
    color_name: str | None = None,
    labels: Sequence[Label] = (),
    title: str | None = None,
    size: tuple[int, int] = (1200, 1000),
    theme: str = "dark",
    legend: bool = True,
    path: str | Path,
) -> Path:
    """Draw a map as a PNG file, or as an SVG with the points as a raster and text as text.

    Without `color` the picture shows the density of the points. In a column of names, booleans or a few whole
    numbers, each of the 20 most frequent values has a color; other numbers are averaged in each pixel. Where
    categories overlap, a rare one weighs more than a frequent one, so that it stays visible.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; points with NaN are left out.
    color : array-like or Arrow array of shape (n_rows,), optional
        Categories or numbers; missing values are drawn in gray.
    color_name : str, optional
        Heading of the legend or color bar.
    labels : sequence of Label
        Written at their positions, the largest first; labels that would cover another one are left out.
    title : str, optional
        Written above the points.
    size : tuple of int
        Width and height of the picture in pixels, from 200 to 20,000 each.
    theme : {'dark', 'light'}
        Background and colors.
    legend : bool
        Whether to draw the legend or color bar.
    path : path-like
        File to write, ending in ``.png`` or ``.svg``; replaced if it exists.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        An argument is wrong, or Pillow or colorcet is not installed.
    """
    path = Path(path)
    _check_arguments(x, y, color, size, theme, path)
    _require_packages()
    content = _Content(x, y, THEMES[theme], color, color_name, labels, None if title is None else str(title), legend)
    canvas = _make_canvas(path, size, content)
    _compose(canvas, content)
    with atomic_write(path) as partial:
        canvas.save(partial)
    return path


def thumbnail(x: np.ndarray, y: np.ndarray, size: tuple[int, int] = (320, 260), theme: str = "light") -> bytes:
    """Return a small picture of the density of a map, as the bytes of a PNG.

    Raises
    ------
    InputError
        Pillow or colorcet is not installed.
    """
    _require_packages()
    step = max(1, len(x) // _MAX_THUMBNAIL_ROWS)
    canvas, buffer = PngCanvas(size, THEMES[theme].background), io.BytesIO()
    _compose(canvas, _Content(x[::step], y[::step], THEMES[theme]))
    canvas.save(buffer)
    return buffer.getvalue()


def _make_canvas(path: Path, size: tuple[int, int], content: _Content) -> PngCanvas | SvgCanvas:
    background = content.theme.background
    if path.suffix.lower() == ".svg":
        return SvgCanvas(size, background, content.title or f"A map of {len(content.x):,} points")
    return PngCanvas(size, background)


def _compose(canvas: Canvas, content: _Content) -> None:
    """Draw the title, the legend, the points and the labels."""
    theme = content.theme
    finite = np.flatnonzero(np.isfinite(content.x) & np.isfinite(content.y))
    x, y = (np.asarray(axis)[finite].astype(np.float64) for axis in (content.x, content.y))
    colors = None
    if content.color is not None and finite.size:
        column = as_arrow(content.color)
        column = column if finite.size == len(content.x) else select_rows(column, finite)
        colors = map_colors(column, theme, content.color_name)
    layers, entries = _layers(colors, theme)
    numbers = colors if isinstance(colors, NumberColors) else None

    unit = min(canvas.size) / 1000
    margin = max(8, round(32 * unit))
    title_size = max(11, round(28 * unit))
    top = margin + (round(title_size * 1.8) if content.title else 0)
    width, height = canvas.size[0] - 2 * margin, canvas.size[1] - top - margin
    if content.title:
        draw_title(canvas, content.title, margin, margin, title_size, theme)
    if content.legend and (entries or numbers):
        note = f"{finite.size:,} point{'' if finite.size == 1 else 's'}"
        bar = None if numbers is None else _bar(numbers)
        panel = Panel(content.color_name, entries, bar, note, (canvas.size[0] * 3 // 10, height), unit)
        width -= panel.width + margin
        panel.draw(canvas, margin + width + margin, top, theme)
    if not finite.size:
        return
    factor = 2 if width * height <= _MAX_SMOOTH_AREA else 1
    pixels = shade_points(x, y, layers, numbers, (width * factor, height * factor), theme)
    pixels = pixels.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    canvas.image((pixels * 255).round().astype(np.uint8), margin, top)
    (left, right), (bottom, upper) = axis_ranges(x, y, (width, height))
    at = np.array([(label.x, label.y) for label in content.labels]).reshape(-1, 2)
    at = (at - [left, upper]) / [right - left, bottom - upper] * [width, height] + [margin, top]
    for placed in place_labels(content.labels, at, (margin, top, margin + width, top + height)):
        for middle, line in placed.positioned_lines():
            canvas.text(middle, line, placed.size, theme.text, "m", halo=theme.background)


def check_size(size: tuple[int, int], low: int) -> None:
    """Check the width and height of a picture, from `low` to 20,000 pixels.

    Raises
    ------
    InputError
    """
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(isinstance(s, int | np.integer) and low <= s <= _MAX_PIXELS for s in size):
        raise InputError(f"size={size} is out of range: use a width and height from {low} to {_MAX_PIXELS:,} pixels.")


def _check_arguments(x: np.ndarray, y: np.ndarray, color: Any, size: tuple[int, int], theme: str, path: Path) -> None:
    if not isinstance(theme, str) or theme not in THEMES:
        raise InputError(f"theme={theme!r} is not accepted. {suggest(str(theme), THEMES)}")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path} ends in {path.suffix!r}: use a name ending in .png or .svg.")
    check_size(size, _MIN_PIXELS)
    if np.ndim(x) != 1 or np.shape(x) != np.shape(y):
        raise InputError(f"x has shape {np.shape(x)} and y {np.shape(y)}: pass one number of each for every point.")
    if color is not None and len(color) != len(x):
        raise InputError(f"{len(color)} color values for {len(x)} points: pass one for each point.")


def _require_packages() -> None:
    try:
        import colorcet  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Drawing needs Pillow and colorcet, which cannot be imported ({error}): pip install 'nomad-dask[plot]'."
        ) from error


def _layers(colors: CategoryColors | NumberColors | None, theme: Theme) -> tuple[list[Layer], list[Entry]]:
    """Return the layers of one color each, and the lines of the legend."""
    if isinstance(colors, CategoryColors):
        layers = [Layer(np.flatnonzero(colors.codes == i), color) for i, color in enumerate(colors.colors)]
        return layers, list(map(Entry, colors.colors, colors.names, colors.counts))
    missing = np.flatnonzero(np.isnan(colors.values)) if colors else np.empty(0, np.int64)
    if not missing.size:
        return [], []
    return [Layer(missing, theme.gray)], [Entry(theme.gray, "missing", missing.size)]


def _bar(numbers: NumberColors) -> Bar:
    """Return the color bar; an end that also stands for values beyond it has < or >."""
    below = "< " if np.nanmin(numbers.values) < numbers.low else ""
    above = "> " if np.nanmax(numbers.values) > numbers.high else ""
    middle = numbers.low / 2 + numbers.high / 2
    return Bar(
        numbers.colors,
        below + _format_number(numbers.low),
        _format_number(middle),
        above + _format_number(numbers.high),
    )


def _format_number(value: float) -> str:
    """Format a number in a few characters."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
