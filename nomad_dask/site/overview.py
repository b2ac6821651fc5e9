"""Pictures of all points, which a page shows before any tile is there, and where there is no WebGL."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from nomad_dask.plotting.palettes import rgb
from nomad_dask.plotting.shading import point_radius
from nomad_dask.site.quantize import GRID_BITS

SIZES = (512, 1024, 2048)
_FINEST_BITS = SIZES[-1].bit_length() - 1
# Can be seen on white and on black.
_COLOR = "#5b8cc9"
_FAINTEST = 0.35
# With none of it they are 16: four bits a pixel.
_STRENGTHS = 15


class Counts:
    """Counts the points of every pixel of the finest picture, batch by batch."""

    def __init__(self) -> None:
        self._counts = np.zeros(SIZES[-1] ** 2, np.int64)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count points (n,), given on the grid."""
        shift = np.uint64(GRID_BITS - _FINEST_BITS)
        pixels = (((y >> shift) << np.uint64(_FINEST_BITS)) | (x >> shift)).astype(np.int64)
        self._counts += np.bincount(pixels, minlength=self._counts.size)

    def picture(self, size: int) -> bytes:
        """Return the picture of one of `SIZES` as PNG, with the greatest y on top; where no points are is no colour."""
        from PIL import Image

        step = SIZES[-1] // size
        counts = self._counts.reshape(size, step, size, step).sum(axis=(1, 3))
        counts = spread(counts, point_radius(counts > 0))[::-1]
        taken = counts > 0
        # Counts span decades; the most crowded half a percent of pixels may saturate.
        strength = np.minimum(np.log1p(counts) / np.log1p(np.percentile(counts[taken], 99.5)), 1)
        # A palette of one colour in a few strengths, first none: a fraction of the bytes of four channels.
        steps = np.where(taken, 1 + (strength * (_STRENGTHS - 1)).round(), 0).astype(np.uint8)
        picture = Image.frombytes("P", (size, size), steps.tobytes())
        picture.putpalette((rgb(_COLOR) * 255).round().astype(np.uint8).tolist() * (1 + _STRENGTHS))
        opacity = (np.linspace(_FAINTEST, 1, _STRENGTHS) * 255).round().astype(np.uint8)
        out = BytesIO()
        picture.save(out, format="PNG", transparency=bytes([0, *opacity.tolist()]))
        return out.getvalue()


def spread(counts: np.ndarray, radius: int) -> np.ndarray:
    """Return for each pixel the sum of the counts (h, w) within a radius of it, as int64.

    `point_radius` is large for few points and small for many, so the number of additions is about that of the pixels.
    The function of datashader is compiled on its first call, which takes longer than the rest of a small export.
    """
    height, width = counts.shape
    wide = width + 2 * radius
    # A margin takes what spreads over the edge.
    found = np.zeros((height + 2 * radius) * wide, np.int64)
    rows, columns = np.nonzero(counts)
    places, amounts = (rows + radius) * wide + columns + radius, counts[rows, columns]
    for down in range(-radius, radius + 1):
        half = int(((radius + 0.5) ** 2 - down**2) ** 0.5)
        for right in range(-half, half + 1):
            # No two pixels come to one place.
            found[places + (down * wide + right)] += amounts
    return found.reshape(-1, wide)[radius : height + radius, radius : width + radius]
