"""Canvases to draw on: a raster for PNG, and an SVG with the points as one raster and text as text."""

from __future__ import annotations

import base64
import io
import unicodedata
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

# Tried in this order for text that is not ASCII, the only characters that Pillow's built-in font has.
_UNICODE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
)
_SVG_FONTS = "system-ui, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
_MAX_CHARACTERS = 1000  # of a text; the rest is ignored


class Canvas(Protocol):
    """A background of one color to draw images, discs and lines of text on; (0, 0) is the top left corner."""

    size: tuple[int, int]

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Draw pixels, uint8 (height, width, 3)."""

    def disc(self, x: float, y: float, radius: float, color: str) -> None:
        """Draw a disc around (x, y)."""

    def text(
        self, at: tuple[float, float], text: str, size: int, color: str, anchor: str, halo: str | None = None
    ) -> None:
        """Draw one line, vertically centered; ``anchor`` is 'l', 'm' or 'r', and ``halo`` the color of an outline."""

    def save(self, to: str | Path | IO[bytes]) -> None:
        """Write the picture."""


def clean(text: str) -> str:
    """Return a text on one line, without control characters and direction overrides."""
    kept = (c if c.isprintable() or c.isspace() else " " for c in text[:_MAX_CHARACTERS])
    # A lone surrogate cannot be encoded.
    return " ".join("".join(kept).split()).encode("utf-8", "replace").decode()


def font_for(text: str, size: int) -> tuple[Any, str]:
    """Return a font, and the text in the characters that the font has."""
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default(size), text
    for name in _UNICODE_FONTS:
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


def shorten(text: str, size: int, max_width: int) -> str:
    """Return the text, cut and ending in dots if it is wider than `max_width` pixels."""
    text = text[:_MAX_CHARACTERS]
    if text_width(text, size) <= max_width:
        return text
    while text and text_width(text.rstrip() + "...", size) > max_width:
        text = text[:-1]
    return text.rstrip() + "..."


def halo_width(size: int) -> int:
    """Return the width in pixels of the outline around letters of a size."""
    return max(2, round(size / 7))


class PngCanvas:
    """A canvas of pixels."""

    def __init__(self, size: tuple[int, int], background: str) -> None:
        from PIL import Image, ImageDraw

        self.size = size
        self._picture = Image.new("RGB", size, background)
        self._pen = ImageDraw.Draw(self._picture)

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Draw pixels, uint8 (height, width, 3)."""
        from PIL import Image

        self._picture.paste(Image.fromarray(pixels), (left, top))

    def disc(self, x: float, y: float, radius: float, color: str) -> None:
        """Draw a smooth disc; Pillow's ellipses are jagged."""
        from PIL import Image, ImageDraw

        box = 2 * round(radius + 1)
        mask = Image.new("L", (4 * box, 4 * box))
        edge = 4 * (box / 2 - radius)
        ImageDraw.Draw(mask).ellipse((edge, edge, 4 * box - edge, 4 * box - edge), fill=255)
        mask = mask.resize((box, box), Image.Resampling.LANCZOS)
        self._picture.paste(Image.new("RGB", (box, box), color), (round(x) - box // 2, round(y) - box // 2), mask)

    def text(
        self, at: tuple[float, float], text: str, size: int, color: str, anchor: str, halo: str | None = None
    ) -> None:
        """Draw one line of text."""
        font, text = font_for(text, size)
        edge: dict[str, Any] = {} if halo is None else {"stroke_width": halo_width(size), "stroke_fill": halo}
        self._pen.text(at, text, font=font, fill=color, anchor=f"{anchor}m", **edge)

    def save(self, to: str | Path | IO[bytes]) -> None:
        """Write a PNG."""
        self._picture.save(to, format="PNG", optimize=True)


class SvgCanvas:
    """A canvas of vectors; text keeps the width measured here, whatever font the viewer has."""

    def __init__(self, size: tuple[int, int], background: str, title: str) -> None:
        from xml.etree import ElementTree as ET

        self.size = size
        width, height = map(str, size)
        self._root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "width": width,
                "height": height,
                "viewBox": f"0 0 {width} {height}",
                "font-family": _SVG_FONTS,
                "role": "img",
            },
        )
        self._add("title").text = clean(title)
        self._add("rect", width=width, height=height, fill=background)

    def _add(self, kind: str, **attributes: Any) -> Any:
        from xml.etree import ElementTree as ET

        named = {name.replace("_", "-"): _format_attribute(value) for name, value in attributes.items()}
        return ET.SubElement(self._root, kind, named)

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Draw pixels, uint8 (height, width, 3)."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
        href = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        self._add("image", x=left, y=top, width=pixels.shape[1], height=pixels.shape[0], href=href)

    def disc(self, x: float, y: float, radius: float, color: str) -> None:
        """Draw a disc."""
        self._add("circle", cx=x, cy=y, r=radius, fill=color)

    def text(
        self, at: tuple[float, float], text: str, size: int, color: str, anchor: str, halo: str | None = None
    ) -> None:
        """Draw one line of text."""
        text = clean(text)
        font, _ = font_for(text, size)
        ascent, descent = font.getmetrics()
        side = {"l": "start", "m": "middle", "r": "end"}[anchor]
        more: dict[str, Any] = {}
        if halo is not None:
            more = {"stroke": halo, "stroke_width": 2 * halo_width(size), "paint_order": "stroke"}
            more["stroke_linejoin"] = "round"
        if text:
            more |= {"textLength": text_width(text, size), "lengthAdjust": "spacingAndGlyphs"}
        y = at[1] + (ascent - descent) / 2
        line = self._add("text", x=at[0], y=y, font_size=size, fill=color, text_anchor=side, **more)
        line.text = text

    def save(self, to: str | Path | IO[bytes]) -> None:
        """Write an SVG."""
        from xml.etree import ElementTree as ET

        ET.ElementTree(self._root).write(to, encoding="utf-8", xml_declaration=True)


def _format_attribute(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
