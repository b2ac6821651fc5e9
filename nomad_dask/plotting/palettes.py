"""Colours of the pictures: two themes, and palettes that stay apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

MOST_CATEGORIES = 20


@dataclass(frozen=True)
class Theme:
    """Colours of one look, as ``#rrggbb``.

    Attributes
    ----------
    background, text, dim, grey : str
        The ground, the main text, the lesser text, and points that are no one's ("other", "missing").
    few : tuple of str
        Categories when there are at most 7: told apart by people who see fewer colours, too.
    many : str
        Name of the colorcet palette beyond that.
    contrast : float
        Least contrast ratio to the ground of the colours taken from it.
    density, numbers : str
        Names of the colorcet maps of counts and of values.
    density_part, numbers_part : tuple of float
        The shares of those maps between which to take colours: those that can be seen on the ground.
    """

    background: str
    text: str
    dim: str
    grey: str
    few: tuple[str, ...]
    many: str
    contrast: float
    density: str
    numbers: str
    density_part: tuple[float, float]
    numbers_part: tuple[float, float]


THEMES = {
    # Okabe and Ito's colours (jfly.uni-koeln.de/color), black left out, blue lightened for the dark.
    "dark": Theme(
        background="#101318",
        text="#e8eaed",
        dim="#969ca6",
        grey="#5c616a",
        few=("#e69f00", "#56b4e9", "#00c290", "#f0e442", "#5a7dff", "#ef6a1a", "#e58fbe"),
        many="glasbey_light",
        contrast=4.0,
        density="kbc",
        numbers="CET_L20",
        density_part=(0.25, 1.0),
        numbers_part=(0.15, 1.0),
    ),
    # Paul Tol's bright scheme (personal.sron.nl/~pault), whose yellow can be seen on white.
    "light": Theme(
        background="#ffffff",
        text="#1d2025",
        dim="#666c75",
        grey="#b4b8be",
        few=("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#7f5f3a"),
        many="glasbey_dark",
        contrast=2.2,
        density="kbc",
        numbers="CET_L20",
        density_part=(0.8, 0.05),
        numbers_part=(0.0, 0.9),
    ),
}


def rgb(color: str) -> np.ndarray:
    """Return ``#rrggbb`` as three sRGB values from 0 to 1 (float32)."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def luminance(color: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.2), from 0 for black to 1 for white."""
    srgb = rgb(color).astype(np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2), from 1 to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def palette(n: int, theme: Theme) -> list[str]:
    """Return `n` colours for categories, the most frequent first; at most `MOST_CATEGORIES`."""
    import colorcet

    if n <= len(theme.few):
        return list(theme.few[:n])
    visible = (c.lower() for c in colorcet.palette[theme.many] if contrast(c, theme.background) >= theme.contrast)
    return list(islice(visible, n))


def color_map(name: str, part: tuple[float, float]) -> np.ndarray:
    """Return a colorcet map between two shares of it as sRGB rows ``(256, 3)``, float32."""
    import colorcet

    rows = np.array([rgb(color) for color in colorcet.palette[name]])
    return np.asarray(rows[np.linspace(part[0] * 255, part[1] * 255, 256).round().astype(int)])
