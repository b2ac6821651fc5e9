"""Positions as they travel to the browser: two bytes an axis, or a picture where there are many."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.callbacks.events import LayoutSnapshot

# A server of notebooks drops what a kernel says beyond a million bytes a second, mean of three seconds.
BYTES_A_SECOND = 400_000
# More points than this are drawn here: the picture has fewer bytes than they have.
MOST_SENT = 250_000
_POINT_BYTES = 4
_PICTURE_BYTES = 400_000


def seconds_between(n_points: int) -> float:
    """Return the time to let pass between two frames of so many points, for the sake of the connection."""
    return (n_points * _POINT_BYTES if n_points <= MOST_SENT else _PICTURE_BYTES) / BYTES_A_SECOND


def frame_of(seen: LayoutSnapshot, size: tuple[int, int], theme: str) -> tuple[dict[str, Any], bytes]:
    """Return what a look at the layout showed, and its points or a PNG of them.

    Points are pairs of little-endian uint16: 0 and 65535 are the ends of a square around all of them, y upwards.

    Parameters
    ----------
    seen : LayoutSnapshot
    size : tuple of int
        Width and height of the PNG in pixels.
    theme : {'dark', 'light'}
        Of the PNG.
    """
    plane = seen.positions[:, :2]
    plane = plane[np.isfinite(plane).all(axis=1)].astype(np.float64)
    low, high = (plane.min(axis=0), plane.max(axis=0)) if len(plane) else (np.zeros(2), np.zeros(2))
    middle = (low + high) / 2
    half = float((high - low).max()) / 2 or max(1.0, float(np.abs(middle).max()))
    frame = {
        "kind": "points" if len(plane) <= MOST_SENT else "png",
        "epoch": seen.epoch,
        "n_epochs": seen.n_epochs,
        "n_rows": seen.n_rows,
        "n_points": len(plane),
        "low": (middle - half).tolist(),
        "high": (middle + half).tolist(),
    }
    if frame["kind"] == "png":
        from nomad_dask.plotting.raster import thumbnail

        return frame, thumbnail(plane[:, 0], plane[:, 1], size, theme)
    scaled = (plane - (middle - half)) / (2 * half) * 65535
    return frame, np.clip(scaled.round(), 0, 65535).astype("<u2").tobytes()
