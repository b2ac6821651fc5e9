"""Title, legend and color bar, beside the points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.plotting.canvas import Canvas, clean, shorten, text_width
from nomad_dask.plotting.palettes import Theme


@dataclass(frozen=True)
class Entry:
    """One line of a legend: a color, a name and its number of points."""

    color: str
    name: str
    count: int


@dataclass(frozen=True)
class Bar:
    """A color bar: its colors from low to high, float32 (256, 3), and the texts beside it."""

    colors: np.ndarray
    low: str
    middle: str
    high: str


class Panel:
    """The column to the right of the points. It is measured first, and the points get the remaining width.

    Parameters
    ----------
    heading : str or None
        Name of the column of the colors.
    entries : list of Entry
        Lines of a legend, in order; empty with a color bar.
    bar : Bar or None
        A color bar instead.
    note : str
        Small text at the end, such as the number of points.
    max_size : tuple of int
        Maximum width and height in pixels.
    unit : float
        Scale of the texts: 1 for a picture of about 1000 pixels.
    """

    def __init__(
        self,
        heading: str | None,
        entries: list[Entry],
        bar: Bar | None,
        note: str,
        max_size: tuple[int, int],
        unit: float,
    ) -> None:
        self.size = max(9, round(17 * unit))
        lines = len(entries) + (2 if heading else 0) + 2
        if bar is None and lines * self.size * 1.5 > max_size[1]:
            self.size = max(9, int(max_size[1] / (lines * 1.5)))
        self.step = round(self.size * 1.5)
        self.bar_height = min(max_size[1] // 2, self.size * 16)
        fits = max(1, max_size[1] // self.step - (lines - len(entries)))
        if len(entries) > fits:
            hidden = entries[fits - 1 :]
            entries = [
                *entries[: fits - 1],
                Entry("", f"{len(hidden)} more", sum(e.count for e in hidden)),
            ]
        self.bar, self.entries = bar, entries
        counts = max((text_width(f"{e.count:,}", self.size) for e in entries), default=0)
        self.swatch = round(self.size * 1.45)
        gap = self.size
        names_width = max_size[0] - self.swatch - gap - counts
        names = [shorten(clean(e.name), self.size, max(names_width, self.size)) for e in entries]
        of_names = max((text_width(name, self.size) for name in names), default=0)
        of_lines = self.swatch + of_names + gap + counts if entries else 0
        self.names = names
        self.heading = shorten(clean(heading), self.size, max_size[0]) if heading else None
        self.note = shorten(note, self.small, max_size[0])
        widths = [of_lines, text_width(self.note, self.small), text_width(self.heading or "", self.size)]
        if bar:
            widths.append(
                round(self.size * 2.2) + max(text_width(t, self.size) for t in (bar.low, bar.middle, bar.high))
            )
        self.width = min(max(widths), max_size[0])

    @property
    def small(self) -> int:
        """Size of the secondary texts."""
        return max(9, round(self.size * 0.85))

    def draw(self, canvas: Canvas, left: int, top: int, theme: Theme) -> None:
        """Draw onto a canvas, from the given corner."""
        y = top
        if self.heading:
            canvas.text((left, y + self.step // 2), self.heading, self.size, theme.text, "l")
            y += round(self.step * 1.4)
        for entry, name in zip(self.entries, self.names, strict=True):
            middle = y + self.step // 2
            if entry.color:
                canvas.disc(left + self.size // 2, middle, self.size * 0.42, entry.color)
            color = theme.text if entry.color else theme.dim
            canvas.text((left + self.swatch, middle), name, self.size, color, "l")
            canvas.text((left + self.width, middle), f"{entry.count:,}", self.size, theme.dim, "r")
            y += self.step
        if self.bar:
            y = self._draw_bar(canvas, self.bar, left, y, theme)
        canvas.text((left, y + round(self.step * 0.9)), self.note, self.small, theme.dim, "l")

    def _draw_bar(self, canvas: Canvas, bar: Bar, left: int, top: int, theme: Theme) -> int:
        """Draw the color bar and return its bottom."""
        rows = (bar.colors[np.linspace(255, 0, self.bar_height).round().astype(int)] * 255).round()
        top += self.size // 2
        canvas.image(np.repeat(rows[:, None].astype(np.uint8), round(self.size * 1.2), axis=1), left, top)
        for share, text in ((0, bar.high), (0.5, bar.middle), (1, bar.low)):
            at = (left + round(self.size * 1.8), top + round(share * self.bar_height))
            canvas.text(at, text, self.size, theme.dim, "l")
        return top + self.bar_height + self.size // 2


def draw_title(canvas: Canvas, text: str, left: int, top: int, size: int, theme: Theme) -> None:
    """Draw the title, cut to the width of the picture."""
    text = shorten(clean(text), size, canvas.size[0] - 2 * left)
    canvas.text((left, top + size // 2), text, size, theme.text, "l")
