"""Groups of nearby cells, and regions of nearby groups, by Lloyd's algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nomad_dask.backends.cell_index import expand_ranges
from nomad_dask.utils.threads import Threads

Run = Callable[[Callable[[int, int], object], int, int], None]

GROUP_CELLS = 32
"""About the mean size of a group; the largest have twice as many cells."""
# Regions for each group in them. More are compared in more time, but smaller ones contain the near groups more surely.
_REGIONS_PER_GROUP = 4
_N_ITERATIONS = 3
# Groups below this multiple of the mean size lose their center: outliers would else make many tiny groups.
_MIN_SIZE = 1 / 4
_MAX_PARTS = 256
_POINTS_AT_ONCE = 256


class Ranges:
    """Consecutive points in ranges, with the mean of each range.

    Parameters
    ----------
    points : ndarray of float32 (n, n_dims)
    sizes : ndarray of int (n_ranges,)
        Points in each range, at least one.

    Attributes
    ----------
    sizes : ndarray of int (n_ranges,)
    means : ndarray of float32 (n_ranges, n_dims)
    """

    def __init__(self, points: np.ndarray, sizes: np.ndarray) -> None:
        self.sizes = sizes
        self._first = np.cumsum(sizes) - sizes
        self.means = np.add.reduceat(points, self._first, axis=0) / sizes[:, None].astype(np.float32)
        self._half_norms = half_norms(self.means)

    def expand(self, numbers: np.ndarray) -> np.ndarray:
        """Return the points int32 of some ranges, one range after another."""
        return expand_ranges(self._first[numbers], self.sizes[numbers])

    def owners(self) -> np.ndarray:
        """Return the range of each point."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def near(self, points: np.ndarray, numbers: np.ndarray, n_wanted: int) -> np.ndarray:
        """Return those of some ranges that are among the `n_wanted` nearest of them to any of the points."""
        if n_wanted >= len(numbers):
            return numbers
        near = np.zeros(len(numbers), bool)
        near[np.argpartition(self._distances(points, numbers), n_wanted - 1, axis=1)[:, :n_wanted]] = True
        return np.asarray(numbers[near])

    def ranks(self, points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return for each range the least `n_wanted` with which it is near; for those not in `numbers` that of all."""
        order = np.argsort(self._distances(points, numbers), axis=1, kind="stable")
        ranks = np.full((len(points), len(self.sizes)), len(self.sizes))
        np.put_along_axis(ranks, numbers[order], np.arange(1, len(numbers) + 1)[None], axis=1)
        return np.asarray(ranks.min(axis=0))

    def _distances(self, points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(self._half_norms[numbers] - points @ self.means.take(numbers, axis=0).T)


class CellGroups:
    """Groups of nearby cells: first regions are found, then the groups of each.

    Parameters
    ----------
    centroids : ndarray of float32 (n_cells, n_dims)
        Around the origin, because products of numbers far from it are less precise.
    run : callable
        See `nearest_cells`.

    Attributes
    ----------
    cells : ndarray of int64 (n_cells,)
        Numbers of all cells, group by group.
    centroids : ndarray of float32 (n_cells, n_dims)
        In this order.
    groups : Ranges
        Of the cells in this order.
    regions : Ranges
        Of the groups.
    """

    def __init__(self, centroids: np.ndarray, run: Run) -> None:
        n_regions = round(_REGIONS_PER_GROUP * math.sqrt(len(centroids) / GROUP_CELLS))
        regions = _group(centroids, min(n_regions, len(centroids)), run)
        parts: list[list[np.ndarray]] = [[] for _ in regions]

        def split(start: int, stop: int) -> None:
            parts[start:stop] = [_split(centroids, cells) for cells in regions[start:stop]]

        run(split, len(regions), 1)
        groups = [cells for groups in parts for cells in groups]
        self.cells = np.concatenate(groups)
        self.centroids = centroids[self.cells]
        self.groups = Ranges(self.centroids, np.array([len(cells) for cells in groups]))
        self.regions = Ranges(self.groups.means, np.array([len(groups) for groups in parts]))


def half_norms(points: np.ndarray) -> np.ndarray:
    """Return half the squared norms of points: minus their product with another, they rank them by distance to it."""
    return np.asarray(np.einsum("ij,ij->i", points, points) / 2)


def _split(centroids: np.ndarray, cells: np.ndarray) -> list[np.ndarray]:
    """Return groups of nearby cells among some, each of at most twice `GROUP_CELLS`."""
    if len(cells) <= 2 * GROUP_CELLS:
        return [cells]
    n_groups = math.ceil(len(cells) / GROUP_CELLS)
    parts = _group(centroids[cells], min(n_groups, _MAX_PARTS), Threads(1).run)
    if len(parts) == 1:  # equal cells
        return np.array_split(cells, n_groups)
    return [group for part in parts for group in _split(centroids, cells[part])]


def _group(points: np.ndarray, n_groups: int, run: Run) -> list[np.ndarray]:
    """Return the points, ascending, of each of up to `n_groups` groups by Lloyd's algorithm."""
    n = len(points)
    # If near points have near numbers, as in a tree, this is a good start; else it is random.
    centers = points[np.arange(n_groups) * n // n_groups]
    for _ in range(_N_ITERATIONS - 1):
        order, sizes = _assign(points, centers, run)
        centers = Ranges(points[order], sizes).means[sizes >= _MIN_SIZE * n / n_groups]
    order, sizes = _assign(points, centers, run)
    return np.split(order, np.cumsum(sizes)[:-1])


def _assign(points: np.ndarray, centers: np.ndarray, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in the order of their nearest centers, and how many each center has that has any."""
    nearest = np.empty(len(points), np.int64)
    norms = half_norms(centers)

    def assign(start: int, stop: int) -> None:
        nearest[start:stop] = (norms - points[start:stop] @ centers.T).argmin(axis=1)

    run(assign, len(points), _POINTS_AT_ONCE)
    sizes = np.bincount(nearest)
    return np.argsort(nearest, kind="stable"), sizes[sizes > 0]
