"""Labels without overlaps: the largest first, each as close to its position as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nomad_dask.plotting.canvas import clean, shorten, text_width
from nomad_dask.plotting.labels import Label

_MIN_SIZE = 10  # pixels; smaller letters are not legible
_SCALES = (1.5, 1.15, 0.92)  # size of the letters by level, the coarsest first
_MAX_LINE_WIDTH = 15  # in units of two thirds of the height of the letters
_MAX_LINES = 3
_LINE_HEIGHT = 1.15
_COVERAGE = 0.12  # share of the area that labels may cover, so that the points stay visible
# Offsets of a box from its position, as shares of its width and height, the nearest first.
_OFFSETS = np.array(
    sorted(
        ((dx, dy) for dx in (0, -0.25, 0.25, -0.5, 0.5) for dy in (0, -0.5, 0.5, -1, 1, -1.5, 1.5)),
        key=lambda offset: (2 * offset[0]) ** 2 + offset[1] ** 2,
    )
)


@dataclass(frozen=True)
class PlacedLabel:
    """A label and the position of its text.

    Attributes
    ----------
    lines : tuple of str
        Its text.
    size : int
        Height of the letters in pixels.
    box : tuple of float
        Left, top, right and bottom in pixels, with a margin around the text.
    """

    lines: tuple[str, ...]
    size: int
    box: tuple[float, float, float, float]

    def positioned_lines(self) -> list[tuple[tuple[float, float], str]]:
        """Return the center and the text of each line."""
        left, top, right, bottom = self.box
        step = (bottom - top) / len(self.lines)
        return [(((left + right) / 2, top + (i + 0.5) * step), line) for i, line in enumerate(self.lines)]


def place_labels(labels: Sequence[Label], at: np.ndarray, area: tuple[float, float, float, float]) -> list[PlacedLabel]:
    """Place labels in an area; labels without enough space are left out.

    Parameters
    ----------
    labels : sequence of Label
    at : ndarray of float (n_labels, 2)
        Their positions in pixels.
    area : tuple of float
        Left, top, right and bottom of the area in pixels; every box is inside.

    Returns
    -------
    list of PlacedLabel
        In the order of placement: by level, then by weight.
    """
    unit = min(area[2] - area[0], area[3] - area[1]) / 1000
    placed: list[PlacedLabel] = []
    boxes = np.empty((len(labels), 4))
    low, high = np.array(area[:2] * 2), np.array(area[2:] * 2)
    budget = _COVERAGE * (area[2] - area[0]) * (area[3] - area[1])
    for i in sorted(range(len(labels)), key=lambda i: (labels[i].level, -labels[i].weight, labels[i].text)):
        # Large pictures are viewed in detail: letters grow more slowly than the picture, and more labels fit.
        size = max(_MIN_SIZE, round(15 * unit**0.7 * _SCALES[min(labels[i].level, len(_SCALES) - 1)]))
        lines = wrap(labels[i].text, size)
        if not lines:
            continue
        gap = 0.3 * size
        extent = np.array([max(text_width(line, size) for line in lines) + 2 * gap, _LINE_HEIGHT * size * len(lines)])
        if extent.prod() > budget:
            continue
        middles = at[i] + _OFFSETS * extent
        tried = np.hstack([middles - extent / 2, middles + extent / 2])
        inside = np.all((tried >= low) & (tried <= high), axis=1)
        taken = boxes[: len(placed)]
        apart = (tried[:, None, :2] >= taken[None, :, 2:]) | (tried[:, None, 2:] <= taken[None, :, :2])
        free = np.flatnonzero(inside & np.all(apart.any(axis=2), axis=1))
        if not free.size:
            continue
        budget -= extent.prod()
        boxes[len(placed)] = tried[free[0]]
        left, top, right, bottom = tried[free[0]].tolist()
        placed.append(PlacedLabel(lines, size, (left, top, right, bottom)))
    return placed


def wrap(text: str, size: int) -> tuple[str, ...]:
    """Return a text as up to three lines, cut and ending in dots if it is longer."""
    max_width = _MAX_LINE_WIDTH * size * 2 // 3
    lines: list[str] = []
    words = clean(text).split(" ")
    while any(words) and len(lines) < _MAX_LINES:
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size) <= max_width:
            taken += 1
        last = len(lines) == _MAX_LINES - 1
        lines.append(shorten(" ".join(words if last else words[:taken]), size, max_width))
        words = words[taken:]
    return tuple(lines)
