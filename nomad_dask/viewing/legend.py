"""Title, legend and colour bar, drawn with Pillow beside the points."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.viewing.colors import Theme

# Tried in this order for names that the font inside Pillow, which knows ASCII only, cannot write.
_WIDE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
)


@dataclass(frozen=True)
class Entry:
    """One line of a legend: a colour, a name and how many points have it."""

    color: str
    name: str
    count: int


@dataclass(frozen=True)
class Bar:
    """A colour bar: its colours from low to high ``(256, 3)`` and the texts of its ends."""

    colors: np.ndarray
    low: str
    middle: str
    high: str


def font_for(text: str, size: int) -> tuple[Any, str]:
    """Return a font and the text as that font can write it."""
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default(size), text
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size), text
        except OSError:
            continue
    plain = unicodedata.normalize("NFKD", text)
    return ImageFont.load_default(size), "".join(
        c if c.isascii() else "?" for c in plain if not unicodedata.combining(c)
    )


def text_width(text: str, size: int) -> int:
    """Return the width of a text in pixels."""
    font, text = font_for(text, size)
    return int(np.ceil(font.getlength(text)))


def shortened(text: str, size: int, room: int) -> str:
    """Return the text, cut and ended by dots when it is wider than `room`."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text.rstrip() + "...", size) > room:
        text = text[:-1]
    return text.rstrip() + "..."


class Panel:
    """The column right of the points, measured first so that the points get the rest.

    Parameters
    ----------
    heading : str or None
        Name of the colour column.
    entries : list of Entry
        Lines of a legend, in order; empty with a colour bar.
    bar : Bar or None
        A colour bar instead.
    note : str
        Small text at the end, such as the number of points.
    room : tuple of int
        Most width and height it may take.
    unit : float
        Scale of the texts: 1 for a picture of about 1000 pixels.
    """

    def __init__(
        self,
        heading: str | None,
        entries: list[Entry],
        bar: Bar | None,
        note: str,
        room: tuple[int, int],
        unit: float,
    ) -> None:
        self.size = max(9, round(17 * unit))
        lines = len(entries) + (2 if heading else 0) + 2
        if bar is None and lines * self.size * 1.5 > room[1]:
            self.size = max(9, int(room[1] / (lines * 1.5)))
        self.step = round(self.size * 1.5)
        self.bar_height = min(room[1] // 2, self.size * 16)
        fits = max(1, room[1] // self.step - (lines - len(entries)))
        if len(entries) > fits:
            hidden = entries[fits - 1 :]
            entries = [
                *entries[: fits - 1],
                Entry("", f"and {len(hidden)} more", sum(e.count for e in hidden)),
            ]
        self.bar, self.entries = bar, entries
        counts = max((text_width(f"{e.count:,}", self.size) for e in entries), default=0)
        self.swatch = round(self.size * 1.45)
        gap = self.size
        names_room = room[0] - self.swatch - gap - counts
        names = [shortened(e.name, self.size, max(names_room, self.size)) for e in entries]
        of_names = max((text_width(name, self.size) for name in names), default=0)
        of_lines = self.swatch + of_names + gap + counts if entries else 0
        self.names = names
        self.heading = shortened(heading, self.size, room[0]) if heading else None
        self.note = shortened(note, self.small, room[0])
        widths = [of_lines, text_width(self.note, self.small), text_width(self.heading or "", self.size)]
        if bar:
            widths.append(
                round(self.size * 2.2) + max(text_width(t, self.size) for t in (bar.low, bar.middle, bar.high))
            )
        self.width = min(max(widths), room[0])

    @property
    def small(self) -> int:
        """Size of the lesser texts."""
        return max(9, round(self.size * 0.85))

    def draw(self, picture: Any, left: int, top: int, theme: Theme) -> None:
        """Draw onto a Pillow image, from the given corner."""
        from PIL import ImageDraw

        pen = ImageDraw.Draw(picture)
        y = top
        if self.heading:
            _write(pen, (left, y + self.step // 2), self.heading, self.size, theme.text, "lm")
            y += round(self.step * 1.4)
        for entry, name in zip(self.entries, self.names, strict=True):
            middle = y + self.step // 2
            if entry.color:
                _dot(picture, left + self.size // 2, middle, self.size * 0.42, entry.color)
            _write(
                pen,
                (left + self.swatch, middle),
                name,
                self.size,
                theme.text if entry.color else theme.dim,
                "lm",
            )
            _write(pen, (left + self.width, middle), f"{entry.count:,}", self.size, theme.dim, "rm")
            y += self.step
        if self.bar:
            y = self._draw_bar(picture, pen, self.bar, left, y, theme)
        _write(pen, (left, y + round(self.step * 0.9)), self.note, self.small, theme.dim, "lm")

    def _draw_bar(self, picture: Any, pen: Any, bar: Bar, left: int, top: int, theme: Theme) -> int:
        """Draw the colour bar and return where it ends."""
        from PIL import Image

        rows = (bar.colors[np.linspace(255, 0, self.bar_height).round().astype(int)] * 255).round()
        strip = np.repeat(rows[:, None].astype(np.uint8), round(self.size * 1.2), axis=1)
        top += self.size // 2
        picture.paste(Image.fromarray(strip), (left, top))
        for share, text in ((0, bar.high), (0.5, bar.middle), (1, bar.low)):
            at = (left + round(self.size * 1.8), top + round(share * self.bar_height))
            _write(pen, at, text, self.size, theme.dim, "lm")
        return top + self.bar_height + self.size // 2


def draw_title(picture: Any, text: str, left: int, top: int, size: int, theme: Theme) -> None:
    """Write the title, cut to the width of the picture."""
    from PIL import ImageDraw

    text = shortened(text, size, picture.width - 2 * left)
    _write(ImageDraw.Draw(picture), (left, top + size // 2), text, size, theme.text, "lm")


def _write(pen: Any, at: tuple[int, int], text: str, size: int, color: str, anchor: str) -> None:
    font, text = font_for(text, size)
    pen.text(at, text, font=font, fill=color, anchor=anchor)


def _dot(picture: Any, x: int, y: int, radius: float, color: str) -> None:
    """Draw a smooth disc; Pillow's own ellipses have steps."""
    from PIL import Image, ImageDraw

    box = 2 * round(radius + 1)
    mask = Image.new("L", (4 * box, 4 * box))
    edge = 4 * (box / 2 - radius)
    ImageDraw.Draw(mask).ellipse((edge, edge, 4 * box - edge, 4 * box - edge), fill=255)
    mask = mask.resize((box, box), Image.Resampling.LANCZOS)
    picture.paste(Image.new("RGB", (box, box), color), (x - box // 2, y - box // 2), mask)
