"""Points as pixels: the position and the color of any number of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.plotting.color_mapping import NumberColors
from nomad_dask.plotting.palettes import Theme, color_map, rgb

_MIN_OPACITY = 0.5  # of a pixel with a single point, where others have many
_MIN_PIXEL = 2.0**-40  # width of a pixel, as a share of the coordinates
_COVERAGE = 0.35  # share of the occupied area that spread points cover


@dataclass(frozen=True)
class Layer:
    """Points of one color.

    Attributes
    ----------
    rows : ndarray of int64
        Indices of the points.
    color : str
        Their color, as ``#rrggbb``.
    """

    rows: np.ndarray
    color: str


def axis_ranges(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of both axes that show all points at the same scale in a picture of this size."""
    (left, right), (low, high) = ((float(axis.min()), float(axis.max())) for axis in (x, y))
    middle_x, middle_y = left + (right - left) / 2, low + (high - low) / 2
    per_pixel = 1.02 * max((right - left) / size[0], (high - low) / size[1])
    # A range far from zero must be wide enough for floats to tell its pixels apart.
    per_pixel = max(per_pixel, _MIN_PIXEL * max(abs(middle_x), abs(middle_y))) or 1.0
    half_x, half_y = per_pixel * size[0] / 2, per_pixel * size[1] / 2
    return (middle_x - half_x, middle_x + half_x), (middle_y - half_y, middle_y + half_y)


def point_radius(occupied: np.ndarray) -> int:
    """Return the radius in pixels at which the points cover about a third of the area that they occupy.

    A few points become discs, millions stay single pixels.

    Parameters
    ----------
    occupied : ndarray of bool (height, width)
        The pixels with points.
    """
    tile = max(1, min(occupied.shape) // 20)
    height, width = (s - s % tile for s in occupied.shape)
    tiles = occupied[:height, :width].reshape(height // tile, tile, width // tile, tile).any(axis=(1, 3))
    density = occupied.sum() / max(1, tiles.sum() * tile**2)
    return int(min(round((_COVERAGE / (np.pi * density)) ** 0.5), max(1, min(occupied.shape) // 110)))


def spread(plane: np.ndarray, radius: int) -> np.ndarray:
    """Return for each pixel the sum of the plane (height, width) within a radius of it, in the same dtype.

    `point_radius` is large for few points and small for many, so the number of additions is about that of the pixels.
    The function of datashader takes seconds to be compiled, in every process.
    """
    height, width = plane.shape
    padded_width = width + 2 * radius
    # The padding holds what spreads over the edges.
    sums = np.zeros((height + 2 * radius) * padded_width, plane.dtype)
    rows, columns = np.nonzero(plane)
    pixels, amounts = (rows + radius) * padded_width + columns + radius, plane[rows, columns]
    for dy in range(-radius, radius + 1):
        half = int(((radius + 0.5) ** 2 - dy**2) ** 0.5)
        for dx in range(-half, half + 1):
            # All indices differ, so no amount is lost.
            sums[pixels + (dy * padded_width + dx)] += amounts
    return sums.reshape(-1, padded_width)[radius : height + radius, radius : width + radius]


class Raster:
    """Counts points by pixel and spreads them to discs.

    Parameters
    ----------
    x, y : ndarray of float64 (n_points,)
    size : tuple of int
        Width and height in pixels.

    Attributes
    ----------
    total : ndarray of float32 (height, width)
        Number of points that cover each pixel.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> None:
        (columns, rows), (width, height) = axis_ranges(x, y, size), size
        self._shape = (height, width)
        self._pixels = _pixel_numbers(y, rows, height) * width + _pixel_numbers(x, columns, width)
        counts = self._aggregate(self._pixels, np.uint32(1))
        self._radius = point_radius(counts > 0)
        self.total = self._spread(counts)

    def count(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of points that cover each pixel, float32 (height, width)."""
        return self._spread(self._aggregate(self._pixels[rows], np.uint32(1)))

    def sum(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the sum of the values of the points that cover each pixel, float32 (height, width)."""
        return self._spread(self._aggregate(self._pixels[rows], values.astype(np.float64, copy=False)))

    def _aggregate(self, pixels: np.ndarray, amounts: Any) -> np.ndarray:
        """Return the sum of the amounts at each pixel, in their dtype.

        The functions of datashader take seconds to be imported and compiled, in every process.
        """
        plane = np.zeros(self._shape, amounts.dtype)
        np.add.at(plane.reshape(-1), pixels, amounts)
        return plane

    def _spread(self, plane: np.ndarray) -> np.ndarray:
        """Spread the points to discs and put the top row first."""
        return spread(plane, self._radius)[::-1].astype(np.float32)


def _pixel_numbers(axis: np.ndarray, limits: tuple[float, float], n: int) -> np.ndarray:
    """Return the pixel of each coordinate among `n` between two limits."""
    scale = n / (limits[1] - limits[0])
    return np.minimum((axis * scale - limits[0] * scale).astype(np.intp), n - 1)


def shade_points(
    x: np.ndarray,
    y: np.ndarray,
    layers: list[Layer],
    numbers: NumberColors | None,
    size: tuple[int, int],
    theme: Theme,
) -> np.ndarray:
    """Return the points on the background, as sRGB from 0 to 1.

    Parameters
    ----------
    x, y : ndarray of float64 (n_points,)
        Positions; at least one.
    layers : list of Layer
        Points of one color each. Without layers and numbers, the picture shows the density of the points.
    numbers : NumberColors or None
        Values of the points that are colored by a value.
    size : tuple of int
        Width and height in pixels.
    theme : Theme

    Returns
    -------
    ndarray of float32 (height, width, 3)
    """
    raster = Raster(x, y, size)
    occupied = raster.total > 0
    # Counts span orders of magnitude; the densest half percent of the pixels may saturate.
    strength = np.minimum(np.log1p(raster.total) / np.log1p(np.percentile(raster.total[occupied], 99.5)), 1)
    background = rgb(theme.background)
    if not layers and numbers is None:
        hues = color_map(theme.density, theme.density_range)[(strength * 255).round().astype(np.uint8)]
        return np.asarray(np.where(occupied[..., None], hues, background))

    shape = raster.total.shape
    mixed, weights = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
    for layer in layers:
        # Squared, so that one color dominates a pixel instead of a muddy mixture; divided by the size of the layer,
        # so that three points of a rare category stay visible among thirty of a frequent one.
        weight = raster.count(layer.rows) ** 2 / layer.rows.size
        mixed += weight[..., None] * rgb(layer.color)
        weights += weight
    if numbers is not None:
        rows = np.flatnonzero(~np.isnan(numbers.values))
        counts, sums = raster.count(rows), raster.sum(rows, numbers.shares(numbers.values[rows]))
        weight = counts**2 / rows.size
        mixed += weight[..., None] * numbers.colors_of(sums / np.maximum(counts, 1))
        weights += weight
    mixed /= np.maximum(weights, np.finfo(np.float32).tiny)[..., None]
    opacity = np.where(occupied, _MIN_OPACITY + (1 - _MIN_OPACITY) * strength, 0)[..., None]
    return np.asarray(background + opacity * (mixed - background))
