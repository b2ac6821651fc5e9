"""Labels without overlaps: the largest first, each as near to its place as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nomad_dask.plotting.canvas import clean, shortened, text_width
from nomad_dask.plotting.labels import Label

_SMALLEST = 10  # pixels: smaller letters cannot be read
_LEVELS = (1.5, 1.15, 0.92)  # size of the letters by level, the coarsest first
_WIDEST = 15  # letters of a line, as wide as its letters are high
_MOST_LINES = 3
_LEADING = 1.15
_COVERED = 0.12  # share of the area that labels may cover: a map is there to see the points, too
# Where a box may go instead of its place: shares of its width and height, the nearest first.
_OFFSETS = np.array(
    sorted(
        ((dx, dy) for dx in (0, -0.25, 0.25, -0.5, 0.5) for dy in (0, -0.5, 0.5, -1, 1, -1.5, 1.5)),
        key=lambda offset: (2 * offset[0]) ** 2 + offset[1] ** 2,
    )
)


@dataclass(frozen=True)
class PlacedLabel:
    """A label and where it is written.

    Attributes
    ----------
    lines : tuple of str
        Its text.
    size : int
        Height of the letters in pixels.
    box : tuple of float
        Left, top, right and bottom in pixels, with a little room around the text.
    """

    lines: tuple[str, ...]
    size: int
    box: tuple[float, float, float, float]

    def rows(self) -> list[tuple[tuple[float, float], str]]:
        """Return each line and the middle of where it is written."""
        left, top, right, bottom = self.box
        step = (bottom - top) / len(self.lines)
        return [(((left + right) / 2, top + (i + 0.5) * step), line) for i, line in enumerate(self.lines)]


def place_labels(labels: Sequence[Label], at: np.ndarray, area: tuple[float, float, float, float]) -> list[PlacedLabel]:
    """Place labels in an area; those that have no room are left out.

    Parameters
    ----------
    labels : sequence of Label
    at : ndarray of float (n_labels, 2)
        Their places in pixels.
    area : tuple of float
        Left, top, right and bottom that no box may leave.

    Returns
    -------
    list of Placed
        In the order in which they were placed: by level, then by weight.
    """
    unit = min(area[2] - area[0], area[3] - area[1]) / 1000
    placed: list[PlacedLabel] = []
    boxes = np.empty((len(labels), 4))
    low, high = np.array(area[:2] * 2), np.array(area[2:] * 2)
    room = _COVERED * (area[2] - area[0]) * (area[3] - area[1])
    for i in sorted(range(len(labels)), key=lambda i: (labels[i].level, -labels[i].weight, labels[i].text)):
        # Large pictures are looked into: their letters grow less than they do, and more labels have room.
        size = max(_SMALLEST, round(15 * unit**0.7 * _LEVELS[min(labels[i].level, len(_LEVELS) - 1)]))
        lines = wrapped(labels[i].text, size)
        if not lines:
            continue
        gap = 0.3 * size
        extent = np.array([max(text_width(line, size) for line in lines) + 2 * gap, _LEADING * size * len(lines)])
        if extent.prod() > room:
            continue
        middles = at[i] + _OFFSETS * extent
        tried = np.hstack([middles - extent / 2, middles + extent / 2])
        inside = np.all((tried >= low) & (tried <= high), axis=1)
        taken = boxes[: len(placed)]
        apart = (tried[:, None, :2] >= taken[None, :, 2:]) | (tried[:, None, 2:] <= taken[None, :, :2])
        free = np.flatnonzero(inside & np.all(apart.any(axis=2), axis=1))
        if not free.size:
            continue
        room -= extent.prod()
        boxes[len(placed)] = tried[free[0]]
        left, top, right, bottom = tried[free[0]].tolist()
        placed.append(PlacedLabel(lines, size, (left, top, right, bottom)))
    return placed


def wrapped(text: str, size: int) -> tuple[str, ...]:
    """Return a text as up to three lines, cut and ended by dots when it is longer."""
    room = _WIDEST * size * 2 // 3
    lines: list[str] = []
    words = clean(text).split(" ")
    while any(words) and len(lines) < _MOST_LINES:
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size) <= room:
            taken += 1
        last = len(lines) == _MOST_LINES - 1
        lines.append(shortened(" ".join(words if last else words[:taken]), size, room))
        words = words[taken:]
    return tuple(lines)
