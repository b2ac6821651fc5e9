"""Colors of the pictures: two themes, and palettes of distinct colors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

MAX_CATEGORIES = 20


@dataclass(frozen=True)
class Theme:
    """Colors of a picture, as ``#rrggbb``.

    Attributes
    ----------
    background, text, dim, gray : str
        The background, the main text, the secondary text, and points without a category of their own ("other",
        "missing").
    categories : tuple of str
        Colors of up to 7 categories, distinct for people with color blindness too.
    large_palette : str
        Name of the colorcet palette for more categories.
    min_contrast : float
        Minimum contrast ratio to the background of the colors taken from `large_palette`.
    density, numbers : str
        Names of the colorcet color maps of counts and of values.
    density_range, numbers_range : tuple of float
        The part of those color maps to use, from 0 to 1: the colors that are visible on the background.
    """

    background: str
    text: str
    dim: str
    gray: str
    categories: tuple[str, ...]
    large_palette: str
    min_contrast: float
    density: str
    numbers: str
    density_range: tuple[float, float]
    numbers_range: tuple[float, float]


THEMES = {
    # The colors of Okabe and Ito (jfly.uni-koeln.de/color) without black, and with a lighter blue.
    "dark": Theme(
        background="#101318",
        text="#e8eaed",
        dim="#969ca6",
        gray="#5c616a",
        categories=("#e69f00", "#56b4e9", "#00c290", "#f0e442", "#5a7dff", "#ef6a1a", "#e58fbe"),
        large_palette="glasbey_light",
        min_contrast=4.0,
        density="kbc",
        numbers="CET_L20",
        density_range=(0.25, 1.0),
        numbers_range=(0.15, 1.0),
    ),
    # Paul Tol's bright scheme (personal.sron.nl/~pault), whose yellow is visible on white.
    "light": Theme(
        background="#ffffff",
        text="#1d2025",
        dim="#666c75",
        gray="#b4b8be",
        categories=("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#7f5f3a"),
        large_palette="glasbey_dark",
        min_contrast=2.2,
        density="kbc",
        numbers="CET_L20",
        density_range=(0.8, 0.05),
        numbers_range=(0.0, 0.9),
    ),
}


def rgb(color: str) -> np.ndarray:
    """Return ``#rrggbb`` as three sRGB values from 0 to 1 (float32)."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def luminance(color: str) -> float:
    """Return the relative luminance of a color (WCAG 2.2), from 0 for black to 1 for white."""
    srgb = rgb(color).astype(np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    """Return the contrast ratio of two colors (WCAG 2.2), from 1 to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def palette(n: int, theme: Theme) -> list[str]:
    """Return the colors of `n` categories, the most frequent first; at most `MAX_CATEGORIES`."""
    import colorcet

    if n <= len(theme.categories):
        return list(theme.categories[:n])
    colors = (color.lower() for color in colorcet.palette[theme.large_palette])
    return list(islice((c for c in colors if contrast(c, theme.background) >= theme.min_contrast), n))


def color_map(name: str, part: tuple[float, float]) -> np.ndarray:
    """Return a part of a colorcet color map, from 0 to 1, as sRGB values, float32 (256, 3)."""
    import colorcet

    colors = np.array([rgb(color) for color in colorcet.palette[name]])
    return np.asarray(colors[np.linspace(part[0] * 255, part[1] * 255, 256).round().astype(int)])
