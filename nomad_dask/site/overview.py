"""Pictures of all points, which a page shows until tiles are loaded, and without WebGL."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from nomad_dask.plotting.palettes import rgb
from nomad_dask.plotting.shading import point_radius, spread
from nomad_dask.site.quantize import GRID_BITS

SIZES = (512, 1024, 2048)
_PIXEL_BITS = SIZES[-1].bit_length() - 1
# Visible on white and on black.
_COLOR = "#5b8cc9"
_MIN_OPACITY = 0.35
# With transparent pixels there are 16 levels: four bits per pixel.
_OPACITY_LEVELS = 15


class PointCounts:
    """Counts the points by pixel of the largest picture, batch by batch."""

    def __init__(self) -> None:
        self._counts = np.zeros(SIZES[-1] ** 2, np.int64)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count points, given by their coordinates (n,) on the grid."""
        shift = np.uint64(GRID_BITS - _PIXEL_BITS)
        pixels = (((y >> shift) << np.uint64(_PIXEL_BITS)) | (x >> shift)).astype(np.int64)
        self._counts += np.bincount(pixels, minlength=self._counts.size)

    def picture(self, size: int) -> bytes:
        """Return the picture of one of `SIZES` as PNG, with y upward; pixels without points are transparent."""
        from PIL import Image

        step = SIZES[-1] // size
        counts = self._counts.reshape(size, step, size, step).sum(axis=3).sum(axis=1)
        counts = spread(counts, point_radius(counts > 0))[::-1]
        occupied = counts > 0
        inked = counts[occupied]
        # Counts span orders of magnitude; the densest half percent of the pixels may saturate.
        strength = np.minimum(np.log1p(inked) / np.log1p(np.percentile(inked, 99.5)), 1)
        # A palette of one color at a few levels of opacity takes a fraction of the bytes of four channels.
        levels = np.zeros(counts.shape, np.uint8)
        levels[occupied] = 1 + (strength * (_OPACITY_LEVELS - 1)).round()
        picture = Image.frombytes("P", (size, size), levels.tobytes())
        picture.putpalette((rgb(_COLOR) * 255).round().astype(np.uint8).tolist() * (1 + _OPACITY_LEVELS))
        opacity = (np.linspace(_MIN_OPACITY, 1, _OPACITY_LEVELS) * 255).round().astype(np.uint8)
        out = BytesIO()
        picture.save(out, format="PNG", transparency=bytes([0, *opacity.tolist()]))
        return out.getvalue()
