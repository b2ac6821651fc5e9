"""Pictures of maps by datashader: where the points are, and what they are, at any number of points."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.canvas import Canvas, PngCanvas, SvgCanvas
from nomad_dask.plotting.color_mapping import Categories, Numbers, as_series, coloring
from nomad_dask.plotting.label_placement import place_labels
from nomad_dask.plotting.labels import Label
from nomad_dask.plotting.legend import Bar, Entry, Panel, draw_title
from nomad_dask.plotting.palettes import THEMES, Theme, color_map, rgb
from nomad_dask.storage.atomic import atomic_write

KINDS = (".png", ".svg")  # of files
_THUMBNAIL_ROWS = 1_000_000
_SMALLEST, _LARGEST = 200, 20_000
_SHARP_PIXELS = 8_000_000  # pictures up to this are drawn at twice the size and halved, which smooths the points
_FAINTEST = 0.5  # opacity of a single point where others lie in heaps
_COVERED = 0.35  # share of the ground that spread points cover


@dataclass(frozen=True)
class _Layer:
    """Points of one colour.

    Attributes
    ----------
    rows : ndarray of int64
        The points, counted among those shown.
    color : str
        Their colour.
    """

    rows: np.ndarray
    color: str


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

    Without `color` the picture shows how many points lie where. A column of names, booleans or a few whole
    numbers gives each of its 20 most frequent values a colour; any other numbers are averaged in each pixel.
    Where categories overlap, a rare one weighs more than a frequent one, so that it is not painted over.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; points with NaN are left out.
    color : array-like or Arrow array of shape (n_rows,), optional
        Categories or numbers; missing values are drawn in grey.
    color_name : str, optional
        Heading of the legend or colour bar.
    labels : sequence of Label
        Written at their places, the largest first; those that would cover another are left out.
    title : str, optional
        Written above the points.
    size : tuple of int
        Width and height of the picture in pixels, from 200 to 20,000 each.
    theme : {'dark', 'light'}
        Ground and colours.
    legend : bool
        Whether to draw the legend or colour bar.
    path : path-like
        File to write, ending in ``.png`` or ``.svg``; replaced if it exists.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        An argument is wrong, or datashader is not installed.
    """
    path = Path(path)
    look = _checked(x, y, color, size, theme, path)
    _require_datashader()
    sheet: PngCanvas | SvgCanvas = PngCanvas(size, look.background)
    if path.suffix.lower() == ".svg":
        sheet = SvgCanvas(size, look.background, title or f"A map of {len(x):,} points")
    _compose(sheet, x, y, color, color_name, labels, title, look, legend)
    with atomic_write(path) as partial:
        sheet.save(partial)
    return path


def thumbnail(x: np.ndarray, y: np.ndarray, size: tuple[int, int] = (320, 260), theme: str = "light") -> bytes:
    """Return a small picture of the density of a map, as the bytes of a PNG.

    Raises
    ------
    InputError
        datashader is not installed.
    """
    _require_datashader()
    look = THEMES[theme]
    sheet, buffer = PngCanvas(size, look.background), io.BytesIO()
    few = slice(None, None, max(1, len(x) // _THUMBNAIL_ROWS))
    _compose(sheet, x[few], y[few], None, None, (), None, look, False)
    sheet.save(buffer)
    return buffer.getvalue()


def _compose(
    sheet: Canvas,
    x: np.ndarray,
    y: np.ndarray,
    color: Any,
    color_name: str | None,
    labels: Sequence[Label],
    title: str | None,
    look: Theme,
    legend: bool,
) -> None:
    """Draw title, legend, points and labels."""
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    xs, ys = np.asarray(x)[shown].astype(np.float64), np.asarray(y)[shown].astype(np.float64)
    colored = None if color is None or not shown.size else coloring(as_series(color).iloc[shown], look)
    layers, entries = _layers(colored, look)
    numbers = colored if isinstance(colored, Numbers) else None

    unit = min(sheet.size) / 1000
    margin = max(8, round(32 * unit))
    title_size = max(11, round(28 * unit))
    top = margin + (round(title_size * 1.8) if title else 0)
    width, height = sheet.size[0] - 2 * margin, sheet.size[1] - top - margin
    if title:
        draw_title(sheet, title, margin, margin, title_size, look)
    if legend and (entries or numbers):
        note = f"{shown.size:,} point{'' if shown.size == 1 else 's'}"
        bar = None if numbers is None else _bar(numbers)
        panel = Panel(color_name, entries, bar, note, (sheet.size[0] * 3 // 10, height), unit)
        width -= panel.width + margin
        panel.draw(sheet, margin + width + margin, top, look)
    if not shown.size:
        return
    fine = 2 if width * height <= _SHARP_PIXELS else 1
    points = _paint(xs, ys, layers, numbers, (width * fine, height * fine), look)
    points = points.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
    sheet.image((points * 255).round().astype(np.uint8), margin, top)
    (left, right), (bottom, upper) = ranges_of(xs, ys, (width, height))
    at = np.array([(label.x, label.y) for label in labels]).reshape(-1, 2)
    at = (at - [left, upper]) / [right - left, bottom - upper] * [width, height] + [margin, top]
    for placed in place_labels(labels, at, (margin, top, margin + width, top + height)):
        for middle, line in placed.rows():
            sheet.text(middle, line, placed.size, look.text, "m", halo=look.background)


def _checked(x: np.ndarray, y: np.ndarray, color: Any, size: tuple[int, int], theme: str, path: Path) -> Theme:
    if theme not in THEMES:
        raise InputError(f"theme={theme!r} is not accepted. {suggest(theme, THEMES)}")
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path} ends in {path.suffix!r}: give a name ending in .png or .svg.")
    if len(size) != 2 or not all(_SMALLEST <= s <= _LARGEST for s in size):
        raise InputError(f"size={size} is out of range: give width and height from {_SMALLEST} to {_LARGEST:,} pixels.")
    if np.ndim(x) != 1 or np.shape(x) != np.shape(y):
        raise InputError(f"x has shape {np.shape(x)} and y {np.shape(y)}: give one number of each for every point.")
    if color is not None and len(color) != len(x):
        raise InputError(f"{len(color)} colour values for {len(x)} points: give one for each point.")
    return THEMES[theme]


def _require_datashader() -> None:
    try:
        import datashader  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"drawing needs datashader, which cannot be imported ({error}): pip install 'nomad-dask[plot]'."
        ) from error


def _layers(colored: Categories | Numbers | None, theme: Theme) -> tuple[list[_Layer], list[Entry]]:
    """Return the layers of one colour each, and the lines of the legend."""
    if isinstance(colored, Categories):
        layers = [_Layer(np.flatnonzero(colored.codes == i), hue) for i, hue in enumerate(colored.colors)]
        return layers, list(map(Entry, colored.colors, colored.names, colored.counts))
    missing = np.flatnonzero(np.isnan(colored.values)) if colored else np.empty(0, np.int64)
    if not missing.size:
        return [], []
    return [_Layer(missing, theme.grey)], [Entry(theme.grey, "missing", missing.size)]


def _bar(numbers: Numbers) -> Bar:
    """Return the colour bar; ends that stand for values beyond them say so."""
    below = "< " if np.nanmin(numbers.values) < numbers.low else ""
    above = "> " if np.nanmax(numbers.values) > numbers.high else ""
    middle = (numbers.low + numbers.high) / 2
    return Bar(numbers.colors, below + _brief(numbers.low), _brief(middle), above + _brief(numbers.high))


def _brief(value: float) -> str:
    """Write a number in few characters."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def ranges_of(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what the picture shows of both axes: all points, one unit as long across as up."""
    middle_x, middle_y = (float(axis.min()) + float(np.ptp(axis)) / 2 for axis in (x, y))
    per_pixel = 1.02 * max(float(np.ptp(x)) / size[0], float(np.ptp(y)) / size[1]) or 1.0
    half_x, half_y = per_pixel * size[0] / 2, per_pixel * size[1] / 2
    return (middle_x - half_x, middle_x + half_x), (middle_y - half_y, middle_y + half_y)


def radius_of(taken: np.ndarray) -> int:
    """Return how far to spread points so that they cover about a third of the ground they lie on.

    `taken` tells which pixels have points. Few points become discs, millions stay pixels.
    """
    tile = max(1, min(taken.shape) // 20)
    height, width = (s - s % tile for s in taken.shape)
    tiles = taken[:height, :width].reshape(height // tile, tile, width // tile, tile).any(axis=(1, 3))
    density = taken.sum() / max(1, tiles.sum() * tile**2)
    return int(min(round((_COVERED / (np.pi * density)) ** 0.5), max(1, min(taken.shape) // 110)))


def _paint(
    x: np.ndarray,
    y: np.ndarray,
    layers: list[_Layer],
    numbers: Numbers | None,
    size: tuple[int, int],
    theme: Theme,
) -> np.ndarray:
    """Return the points on their ground, sRGB from 0 to 1, ``(height, width, 3)`` float32."""
    import datashader as ds
    import datashader.transfer_functions as tf
    import pandas as pd

    canvas = ds.Canvas(size[0], size[1], *ranges_of(x, y, size))

    def count(rows: np.ndarray) -> Any:
        return canvas.points(pd.DataFrame({"x": x[rows], "y": y[rows]}), "x", "y", ds.count())

    def spread(plane: Any) -> np.ndarray:
        """Spread points to discs and put the top row first."""
        spread_out: np.ndarray = tf.spread(plane, radius).to_numpy()[::-1].astype(np.float32)
        return spread_out

    everything = count(np.arange(x.size))
    radius = radius_of(everything.to_numpy() > 0)
    total = spread(everything)
    taken = total > 0
    # Counts span decades; the most crowded half a percent of pixels may saturate.
    strength = np.minimum(np.log1p(total) / np.log1p(np.percentile(total[taken], 99.5)), 1)
    ground = rgb(theme.background)
    if not layers and numbers is None:
        hues = color_map(theme.density, theme.density_part)[(strength * 255).round().astype(np.uint8)]
        return np.asarray(np.where(taken[..., None], hues, ground))

    mixed, weights = np.zeros((*total.shape, 3), np.float32), np.zeros(total.shape, np.float32)
    for layer in layers:
        # Squared, so that one colour wins instead of all turning to mud; by the size of the layer, so that
        # three points of a rare category are seen among thirty of a frequent one.
        weight = spread(count(layer.rows)) ** 2 / layer.rows.size
        mixed += weight[..., None] * rgb(layer.color)
        weights += weight
    if numbers is not None:
        rows = np.flatnonzero(~np.isnan(numbers.values))
        frame = pd.DataFrame({"x": x[rows], "y": y[rows], "value": numbers.values[rows]})
        n, of_values = spread(count(rows)), spread(canvas.points(frame, "x", "y", ds.sum("value")))
        weight = n**2 / rows.size
        mixed += weight[..., None] * numbers.hues(of_values / np.maximum(n, 1))
        weights += weight
    mixed /= np.maximum(weights, np.finfo(np.float32).tiny)[..., None]
    opacity = np.where(taken, _FAINTEST + (1 - _FAINTEST) * strength, 0)[..., None]
    return np.asarray(ground + opacity * (mixed - ground))
