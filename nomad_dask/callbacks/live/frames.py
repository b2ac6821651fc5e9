"""Positions in the form sent to the browser: two bytes per coordinate, or a picture if there are many."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.callbacks.events import LayoutSnapshot

# A notebook server drops messages of a kernel beyond a million bytes per second, averaged over three seconds.
BYTES_PER_SECOND = 400_000
# More points than this are sent as a picture, which has fewer bytes.
MAX_SENT_POINTS = 250_000
_POINT_BYTES = 4
_PICTURE_BYTES = 400_000


def seconds_between(n_points: int) -> float:
    """Return the minimum time between two frames of this number of points, to spare the connection."""
    return (n_points * _POINT_BYTES if n_points <= MAX_SENT_POINTS else _PICTURE_BYTES) / BYTES_PER_SECOND


def make_frame(snapshot: LayoutSnapshot, size: tuple[int, int], theme: str) -> tuple[dict[str, Any], bytes]:
    """Return a description of a snapshot, and its points or a PNG of them.

    Points are pairs of little-endian uint16: 0 and 65535 are the ends of a square around all points, with y upward.

    Parameters
    ----------
    snapshot : LayoutSnapshot
    size : tuple of int
        Width and height of the PNG in pixels.
    theme : {'dark', 'light'}
        Theme of the PNG.
    """
    plane = snapshot.positions[:, :2]
    plane = plane[np.isfinite(plane).all(axis=1)].astype(np.float64)
    low, high = (plane.min(axis=0), plane.max(axis=0)) if len(plane) else (np.zeros(2), np.zeros(2))
    middle = (low + high) / 2
    half = float((high - low).max()) / 2 or max(1.0, float(np.abs(middle).max()))
    frame = {
        "kind": "points" if len(plane) <= MAX_SENT_POINTS else "png",
        "epoch": snapshot.epoch,
        "n_epochs": snapshot.n_epochs,
        "n_rows": snapshot.n_rows,
        "n_points": len(plane),
        "low": (middle - half).tolist(),
        "high": (middle + half).tolist(),
    }
    if frame["kind"] == "png":
        from nomad_dask.plotting.raster import thumbnail

        return frame, thumbnail(plane[:, 0], plane[:, 1], size, theme)
    scaled = (plane - (middle - half)) / (2 * half) * 65535
    return frame, np.clip(scaled.round(), 0, 65535).astype("<u2").tobytes()
