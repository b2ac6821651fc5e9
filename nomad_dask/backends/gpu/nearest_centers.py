"""The nearest center of each row, where rows are in groups, and each group has centers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.runtime import BLOCK, Runtime

TILE_ROWS = 128
"""Rows that a block of threads compares with centers; as in kmeans.cu."""


@dataclass(frozen=True)
class Tiles:
    """Pieces of groups of rows, and the centers of each group.

    Attributes
    ----------
    n_rows : int
        Of all groups.
    table : array of int64 (n_tiles, 4)
        On the device: first row, number of rows, first center, number of centers.
    """

    n_rows: int
    table: Any


def make_tiles(row_offsets: np.ndarray, center_offsets: np.ndarray, runtime: Runtime) -> Tiles:
    """Return the tiles of groups of rows.

    Parameters
    ----------
    row_offsets, center_offsets : ndarray of int64 (n_groups + 1,)
        Group g has rows ``row_offsets[g]`` to ``row_offsets[g + 1]``, and likewise centers: at least one if it has
        rows.
    runtime : Runtime
    """
    n_tiles = -(-np.diff(row_offsets) // TILE_ROWS)
    group = np.repeat(np.arange(len(n_tiles)), n_tiles)
    number = np.arange(len(group)) - np.repeat(np.cumsum(n_tiles) - n_tiles, n_tiles)
    first = row_offsets[group] + TILE_ROWS * number
    n_rows = np.minimum(TILE_ROWS, row_offsets[group + 1] - first)
    table = np.stack([first, n_rows, center_offsets[group], np.diff(center_offsets)[group]], axis=1)
    return Tiles(int(row_offsets[-1]), runtime.upload(table.astype(np.int64)))


def find_nearest(rows: Any, tiles: Tiles, centers: Any, runtime: Runtime) -> Any:
    """Return for each row the index (n,) int32 of the nearest of the centers of its group, on the device.

    Parameters
    ----------
    rows : array of float32 (n, d)
        On the device, sorted by group.
    tiles : Tiles
    centers : array of float32 (m, d)
        On the device, sorted by group.
    runtime : Runtime
    """
    labels = runtime.xp.empty(tiles.n_rows, np.int32)
    _launch(rows, None, tiles, centers, None, labels, runtime)
    return labels


def find_nearest_of_picks(rows: Any, picks: Any, tiles: Tiles, centers: Any, runtime: Runtime) -> tuple[Any, Any]:
    """Return the index (p,) int32 of the nearest center, and the distance, of rows that are in several groups.

    Parameters
    ----------
    rows : array of float32 (n, d)
    picks : array of int32 (p,)
        Rows, sorted by group.
    tiles : Tiles
        Of the picks.
    centers : array of float32 (m, d)
    runtime : Runtime

    Returns
    -------
    labels : array of int32 (p,)
    distances : array of float32 (p,)
        Half the squared distances, less half the squared norm of the row: comparable for the same row only.
    """
    labels, distances = runtime.xp.empty(tiles.n_rows, np.int32), runtime.xp.empty(tiles.n_rows, np.float32)
    _launch(rows, picks, tiles, centers, distances, labels, runtime)
    return labels, distances


def _launch(rows: Any, picks: Any, tiles: Tiles, centers: Any, values: Any, labels: Any, runtime: Runtime) -> None:
    half_norms = (centers * centers).sum(axis=1) / np.float32(2)
    runtime.launch(
        "nearest_center", 2, BLOCK * len(tiles.table), rows, picks, np.int32(rows.shape[1]), tiles.table,
        np.int64(len(tiles.table)), centers, half_norms, values, labels,
    )  # fmt: skip


def sort_by_label(labels: Any, n_labels: int, runtime: Runtime) -> tuple[Any, np.ndarray]:
    """Return the order that sorts labels, on the device, and the offsets of each label in it, on the host.

    Parameters
    ----------
    labels : array of int32 (n,)
    n_labels : int
        Labels are 0 to ``n_labels - 1``.
    runtime : Runtime

    Returns
    -------
    order : array of int64 (n,)
        Equal labels remain in order.
    offsets : ndarray of int64 (n_labels + 1,)
    """
    xp = runtime.xp
    order = xp.argsort(labels, kind="stable")
    offsets = xp.searchsorted(labels[order], xp.arange(n_labels + 1, dtype=np.int32))
    return order, runtime.download(offsets)
