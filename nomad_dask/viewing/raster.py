"""Pictures of maps by datashader: where the points are, and what they are, at any number of points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, near
from nomad_dask.viewing.colors import MOST_CATEGORIES, THEMES, Theme, color_map, palette, rgb
from nomad_dask.viewing.legend import Bar, Entry, Panel, draw_title
from nomad_dask.workspace import whole_file

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


@dataclass(frozen=True)
class _Numbers:
    """Points coloured by a value.

    Attributes
    ----------
    rows : ndarray of int64
        The points that have a value.
    values : ndarray of float64, as long as `rows`
        Their values.
    low, high : float
        Values of the first and the last colour.
    colors : ndarray of shape (256, 3)
        Colours from low to high.
    """

    rows: np.ndarray
    values: np.ndarray
    low: float
    high: float
    colors: np.ndarray

    def hues(self, means: np.ndarray) -> np.ndarray:
        """Return the colour of each mean; NaN gets the first."""
        share = (np.nan_to_num(means, nan=self.low) - self.low) / ((self.high - self.low) or 1.0)
        hues: np.ndarray = self.colors[(np.clip(share, 0, 1) * 255).round().astype(np.uint8)]
        return hues

    def bar(self) -> Bar:
        """Return the colour bar; ends that stand for values beyond them say so."""
        below = "< " if self.values.min() < self.low else ""
        above = "> " if self.values.max() > self.high else ""
        middle = (self.low + self.high) / 2
        return Bar(self.colors, below + _brief(self.low), _brief(middle), above + _brief(self.high))


def draw(
    x: np.ndarray,
    y: np.ndarray,
    *,
    color: Any = None,
    color_name: str | None = None,
    title: str | None = None,
    size: tuple[int, int] = (1200, 1000),
    theme: str = "dark",
    legend: bool = True,
    path: str | Path,
) -> Path:
    """Draw a map as a PNG file.

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
    title : str, optional
        Written above the points.
    size : tuple of int
        Width and height of the picture in pixels, from 200 to 20,000 each.
    theme : {'dark', 'light'}
        Ground and colours.
    legend : bool
        Whether to draw the legend or colour bar.
    path : path-like
        File to write, ending in ``.png``; replaced if it exists.

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
    from PIL import Image

    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    xs, ys = np.asarray(x)[shown].astype(np.float64), np.asarray(y)[shown].astype(np.float64)
    layers, numbers, entries = ([], None, []) if color is None or not shown.size else _split(color, shown, look)

    unit = min(size) / 1000
    margin = max(8, round(32 * unit))
    title_size = max(11, round(28 * unit))
    top = margin + (round(title_size * 1.8) if title else 0)
    width, height = size[0] - 2 * margin, size[1] - top - margin
    picture = Image.new("RGB", size, look.background)
    if title:
        draw_title(picture, title, margin, margin, title_size, look)
    if legend and (entries or numbers):
        note = f"{shown.size:,} point{'' if shown.size == 1 else 's'}"
        bar = None if numbers is None else numbers.bar()
        panel = Panel(color_name, entries, bar, note, (size[0] * 3 // 10, height), unit)
        width -= panel.width + margin
        panel.draw(picture, margin + width + margin, top, look)
    if shown.size:
        fine = 2 if width * height <= _SHARP_PIXELS else 1
        points = _paint(xs, ys, layers, numbers, (width * fine, height * fine), look)
        points = points.reshape(height, fine, width, fine, 3).mean(axis=(1, 3))
        picture.paste(Image.fromarray((points * 255).round().astype(np.uint8)), (margin, top))
    with whole_file(path) as partial:
        picture.save(partial, format="PNG", optimize=True)
    return path


def _checked(x: np.ndarray, y: np.ndarray, color: Any, size: tuple[int, int], theme: str, path: Path) -> Theme:
    if theme not in THEMES:
        raise InputError(f"theme={theme!r} is not accepted. {near(theme, THEMES)}")
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} ends in {path.suffix!r}: pictures are written as PNG, so give a name ending in .png.")
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


def _split(color: Any, shown: np.ndarray, theme: Theme) -> tuple[list[_Layer], _Numbers | None, list[Entry]]:
    """Return the layers of one colour each, the points coloured by value, and the lines of the legend."""
    import pandas as pd

    column = pd.Series(color.to_pandas() if hasattr(color, "to_pandas") else color).iloc[shown].reset_index(drop=True)
    missing = np.flatnonzero(column.isna().to_numpy())
    layers, entries, numbers = [], [], None
    if _is_continuous(column):
        rows = np.flatnonzero(column.notna().to_numpy())
        values = column.to_numpy(np.float64, na_value=np.nan)[rows]
        # A few far values would leave one colour to all the others.
        low, high = np.percentile(values, [1, 99])
        if low == high:
            low, high = values.min(), values.max()
        numbers = _Numbers(rows, values, float(low), float(high), color_map(theme.numbers, theme.numbers_part))
    else:
        codes, names = pd.factorize(column)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        by_count = np.lexsort((np.arange(len(names)), -counts))
        kept, rest = by_count[:MOST_CATEGORIES], by_count[MOST_CATEGORIES:]
        for code, hue in zip(kept, palette(len(kept), theme), strict=True):
            layers.append(_Layer(np.flatnonzero(codes == code), hue))
            entries.append(Entry(hue, str(names[code]), int(counts[code])))
        if rest.size:
            rows = np.flatnonzero(np.isin(codes, rest))
            layers.append(_Layer(rows, theme.grey))
            entries.append(Entry(theme.grey, f"other ({rest.size:,})", rows.size))
    if missing.size:
        layers.append(_Layer(missing, theme.grey))
        entries.append(Entry(theme.grey, "missing", missing.size))
    return layers, numbers, entries


def _brief(value: float) -> str:
    """Write a number in few characters."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _is_continuous(column: Any) -> bool:
    """Tell numbers to be averaged from names, booleans and a few whole numbers."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    present = column.dropna()
    return not (present.nunique() <= MOST_CATEGORIES and bool((present == present.round()).all()))


def _ranges(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what the picture shows of both axes: all points, one unit as long across as up."""
    middle_x, middle_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    per_pixel = 1.02 * max(np.ptp(x) / size[0], np.ptp(y) / size[1]) or 1.0
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
    numbers: _Numbers | None,
    size: tuple[int, int],
    theme: Theme,
) -> np.ndarray:
    """Return the points on their ground, sRGB from 0 to 1, ``(height, width, 3)`` float32."""
    import datashader as ds
    import datashader.transfer_functions as tf
    import pandas as pd

    canvas = ds.Canvas(size[0], size[1], *_ranges(x, y, size))

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
        frame = pd.DataFrame({"x": x[numbers.rows], "y": y[numbers.rows], "value": numbers.values})
        n, of_values = spread(count(numbers.rows)), spread(canvas.points(frame, "x", "y", ds.sum("value")))
        weight = n**2 / numbers.rows.size
        mixed += weight[..., None] * numbers.hues(of_values / np.maximum(n, 1))
        weights += weight
    mixed /= np.maximum(weights, np.finfo(np.float32).tiny)[..., None]
    opacity = np.where(taken, _FAINTEST + (1 - _FAINTEST) * strength, 0)[..., None]
    return np.asarray(ground + opacity * (mixed - ground))
