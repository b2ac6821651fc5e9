"""K-Means of many groups of rows at once, by Lloyd's algorithm from the seeds of k-means++.

The number of launches, and of waits for the device, does not depend on the number of groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.nearest_centers import find_nearest, make_tiles
from nomad_dask.backends.gpu.runtime import BLOCK, Runtime
from nomad_dask.backends.kmeans_tree import TINY

N_ITERATIONS = 16
N_TRIALS = 8
"""Rows that are tried for each seed; as in kmeans.cu."""
PICKS_PER_CENTER = 16
"""Seeds are chosen from so many rows per center, or from all if there are fewer."""
# In so many of them, the first, centers of tiny cells move into the largest ones.
_N_MOVING = 8
# Sums in integers stay below this many bits.
_SUM_BITS = 62
# From one iteration to the next, another row of a cell is taken: multiples of it are spread evenly in (0, 1).
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class RowGroups:
    """Rows in groups.

    Attributes
    ----------
    rows : array of float32 (n, d)
        On the device, sorted by group.
    offsets : ndarray of int64 (n_groups + 1,)
        Group g has rows ``offsets[g]`` to ``offsets[g + 1]``.
    """

    rows: Any
    offsets: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each group, int64 (n_groups,)."""
        return np.diff(self.offsets)


def fit_groups(groups: RowGroups, n_centers: np.ndarray, seed: int, runtime: Runtime) -> tuple[Any, Any]:
    """Return the K-Means centers of each group.

    Parameters
    ----------
    groups : RowGroups
    n_centers : ndarray of int64 (n_groups,)
        At least one and at most the number of rows; 0 for groups without rows.
    seed : int
    runtime : Runtime

    Returns
    -------
    centers : array of float32 (m, d)
        On the device, sorted by group. Cells can be empty where a group has fewer different rows than centers.
    labels : array of int32 (n,)
        The nearest center of each row, on the device.
    """
    xp = runtime.xp
    rows, d = groups.rows, groups.rows.shape[1]
    offsets = _to_offsets(n_centers)
    tiles = make_tiles(groups.offsets, offsets, runtime)
    moving = _TinyCells(groups, n_centers, runtime)
    centers = _choose_seeds(groups, offsets, seed, runtime)
    scale = _fixed_point_scale(rows, runtime)
    sums = xp.empty((len(centers), d + 1), np.int64)
    for iteration in range(N_ITERATIONS):
        labels = find_nearest(rows, tiles, centers, runtime)
        sums.fill(0)
        runtime.launch("add_rows", 2, 32 * len(rows), rows, labels, np.int64(len(rows)), np.int32(d), scale, sums)
        counts = sums[:, -1]
        means = sums[:, :-1] / (xp.maximum(counts, 1) * scale)[:, None]
        centers = xp.where(counts[:, None] > 0, means, centers).astype(np.float32)
        if iteration < _N_MOVING:
            centers = moving.move(centers, labels, counts, iteration)
    return centers, find_nearest(rows, tiles, centers, runtime)


def _to_offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _choose_seeds(groups: RowGroups, center_offsets: np.ndarray, seed: int, runtime: Runtime) -> Any:
    """Return rows (m, d) of each group by k-means++, among evenly spaced ones."""
    xp = runtime.xp
    n_picks = np.minimum(groups.sizes, PICKS_PER_CENTER * np.diff(center_offsets))
    offsets = _to_offsets(n_picks)
    number = np.arange(offsets[-1]) - np.repeat(offsets[:-1], n_picks)
    sizes = np.repeat(groups.sizes, n_picks)
    picks = runtime.upload(np.repeat(groups.offsets[:-1], n_picks) + number * sizes // np.repeat(n_picks, n_picks))
    columns = xp.ascontiguousarray(groups.rows.T[:, picks])
    n = len(picks)
    chosen = xp.empty(int(center_offsets[-1]), np.int32)
    nearest, tried = xp.empty(n, np.float32), xp.empty((N_TRIALS, n), np.float32)
    runtime.launch(
        "choose_seeds", 2, BLOCK * len(n_picks), columns, np.int64(n), runtime.upload(offsets),
        runtime.upload(center_offsets), np.int64(len(n_picks)), np.int32(len(columns)), np.uint64(seed % (1 << 64)),
        nearest, tried, chosen,
    )  # fmt: skip
    return groups.rows[picks[chosen]]


def _fixed_point_scale(rows: Any, runtime: Runtime) -> np.float64:
    """Return the power of two by which values are multiplied before they are rounded to integers and summed."""
    largest = runtime.download(runtime.xp.maximum(rows.max(), -rows.min())).item()
    # frexp: largest · n < 2^exponent.
    _, exponent = math.frexp(largest * len(rows))
    return np.float64(2.0 ** (_SUM_BITS - exponent))


class _TinyCells:
    """Moves the centers of tiny cells into the largest cells of their group.

    Parameters
    ----------
    groups : RowGroups
    n_centers : ndarray of int64 (n_groups,)
    runtime : Runtime
    """

    def __init__(self, groups: RowGroups, n_centers: np.ndarray, runtime: Runtime) -> None:
        self._xp = runtime.xp
        self._rows = groups.rows
        group = np.repeat(np.arange(len(n_centers)), n_centers)
        self._group = runtime.upload(group)
        self._first = runtime.upload(_to_offsets(n_centers)[group])
        self._smallest = runtime.upload(TINY * groups.sizes[group] / n_centers[group])

    def move(self, centers: Any, labels: Any, counts: Any, iteration: int) -> Any:
        """Return the centers after the i-th tiny cell of each group has taken a row of its i-th largest cell.

        Parameters
        ----------
        centers : array of float32 (m, d)
        labels : array of int32 (n,)
        counts : array of int64 (m,)
            Rows of each cell.
        iteration : int
            Each takes other rows.
        """
        xp = self._xp
        n = len(self._rows)
        tiny = counts < self._smallest
        before = xp.cumsum(tiny.astype(np.int64)) - tiny
        by_size = xp.argsort(self._group * (n + 1) - counts, kind="stable")
        donor = by_size[self._first + before - before[self._first]]
        starts = xp.cumsum(counts) - counts
        share = _GOLDEN_RATIO * (iteration + 1) % 1
        place = starts[donor] + (share * counts[donor]).astype(np.int64)
        row = xp.argsort(labels, kind="stable")[xp.minimum(place, n - 1)]
        moves = tiny & ~tiny[donor] & (counts[donor] > 2)
        return xp.where(moves[:, None], self._rows[row], centers)
