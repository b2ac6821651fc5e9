"""Centroids of groups of rows that are read in blocks, and whether a map keeps the order of their distances."""

from __future__ import annotations

import numpy as np

from nomad_dask.metrics.confidence import ConfidenceInterval
from nomad_dask.metrics.distances import pair_distances
from nomad_dask.utils.threads import Threads

MAX_LABEL_GROUPS = 256
MAX_KMEANS_GROUPS = 50
_MIN_GROUPS = 3  # of a triplet
_QUERIES_PER_GROUP = 20
_KMEANS_ITERATIONS = 10
_ROWS_AT_ONCE, DIMS_AT_ONCE = 256, 4


class StreamingCentroids:
    """Means of groups of rows, summed up in order of row, so that blocks do not change their rounding.

    Parameters
    ----------
    n_groups : int
    origin : ndarray of float64 (n_dims,)
        A point near the rows, which is subtracted before summing so that a common offset loses no digits.
    """

    def __init__(self, n_groups: int, origin: np.ndarray) -> None:
        self.counts = np.zeros(n_groups, np.int64)
        self._origin = origin
        self._sums = np.zeros((origin.size, n_groups))

    def update(self, rows: np.ndarray, groups: np.ndarray, pool: Threads) -> None:
        """Add float64 rows ``(n, n_dims)``, of which ``groups`` (n,) holds the groups, -1 for none."""
        n_groups = self.counts.size
        member = np.flatnonzero(groups >= 0)
        # The sums so far come first, so that every addition is in order of row.
        slots = np.concatenate([np.arange(n_groups), groups[member]])
        self.counts += np.bincount(groups[member], minlength=n_groups)

        def work(a: int, b: int) -> None:
            columns = rows[member, a:b].T - self._origin[a:b, None]
            for d, values in enumerate(columns, start=a):
                self._sums[d] = np.bincount(slots, np.concatenate([self._sums[d], values]), n_groups)

        pool.run(work, self._origin.size, DIMS_AT_ONCE)

    def means(self) -> np.ndarray:
        """Return the centroids of the groups that have rows ``(n, n_dims)``, relative to the origin."""
        used = self.counts > 0
        return np.asarray((self._sums[:, used] / self.counts[used]).T)


class GroupCentroids:
    """Centroids of groups of rows, in the data and in the map.

    Parameters
    ----------
    groups : ndarray of int64 (n_rows,) or None
        Group of every row, -1 for none, from `largest_groups`. None assigns every row to the nearest of
        `kmeans_centers`.
    queries : ndarray of float64 (n_queries, n_dims)
        Vectors of the sampled rows.
    mapped_queries : ndarray of float64 (n_queries, n_components)
        Their positions in the map.
    pool : Threads
    """

    def __init__(
        self, groups: np.ndarray | None, queries: np.ndarray, mapped_queries: np.ndarray, pool: Threads
    ) -> None:
        self._groups = groups
        self._centers = queries[:0] if groups is not None else kmeans_centers(queries, pool)
        n_groups = len(self._centers) if groups is None else int(groups.max()) + 1
        self._data = StreamingCentroids(n_groups, queries.mean(axis=0))
        self._map = StreamingCentroids(n_groups, mapped_queries.mean(axis=0))

    def update(self, rows: np.ndarray, mapped: np.ndarray, start: int, pool: Threads) -> None:
        """Add the vectors and the positions of rows, float64, which begin at row number `start`."""
        if self._groups is None:
            groups = nearest_centers(rows, self._centers, pool)
        else:
            groups = self._groups[start : start + len(rows)]
        self._data.update(rows, groups, pool)
        self._map.update(mapped, groups, pool)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the centroids in the data and in the map of the groups that have rows."""
        return self._data.means(), self._map.means()


def largest_groups(codes: np.ndarray) -> np.ndarray:
    """Return each row's group by label: 0 is the most frequent label; -1 where it is missing or too rare.

    Parameters
    ----------
    codes : ndarray of int64 (n_rows,)
        Labels, -1 where missing. At most `MAX_LABEL_GROUPS` of them become groups.
    """
    counts = np.bincount(codes[codes >= 0])
    order = np.argsort(-counts, kind="stable")[:MAX_LABEL_GROUPS]
    group = np.full(counts.size + 1, -1)  # the last one is what code -1 selects
    group[order] = np.arange(order.size)
    return np.asarray(group[codes])


def kmeans_centers(queries: np.ndarray, pool: Threads) -> np.ndarray:
    """Return centers of the sampled rows by Lloyd's algorithm, from centers that are spread over their order.

    Parameters
    ----------
    queries : ndarray of float64 (n_queries, n_dims)
        About 20 of them make a group; there are 3 to 50 groups, and at most one per query.
    pool : Threads

    Returns
    -------
    ndarray of float64 (n_groups, n_dims)
    """
    n = len(queries)
    n_groups = min(n, MAX_KMEANS_GROUPS, max(_MIN_GROUPS, n // _QUERIES_PER_GROUP))
    # Of two equal centers, one would remain without rows.
    centers = np.unique(queries[np.arange(n_groups) * n // n_groups], axis=0)
    origin = queries.mean(axis=0)
    for _ in range(_KMEANS_ITERATIONS):
        sums = StreamingCentroids(len(centers), origin)
        sums.update(queries, nearest_centers(queries, centers, pool), pool)
        centers = centers.copy()
        centers[sums.counts > 0] = sums.means() + origin
    return centers


def nearest_centers(rows: np.ndarray, centers: np.ndarray, pool: Threads) -> np.ndarray:
    """Return the number of each row's nearest center, int64 (n,); of equally near ones, the first."""
    nearest = np.empty(len(rows), np.int64)
    n, n_dims = centers.shape
    # Bounds the rounding of |x|² + |c|² − 2x·c, as in StreamingKNN.
    slack = 2 * (n_dims + 16) * float(np.finfo(np.float64).eps)

    def work(a: int, b: int) -> None:
        part = rows[a:b]
        with np.errstate(over="ignore", invalid="ignore"):
            squares, own = np.einsum("ij,ij->i", centers, centers), np.einsum("ij,ij->i", part, part)
            expanded = squares - 2 * (part @ centers.T)
            limits = expanded.min(axis=1) + slack * (own + squares.max())
            is_near = expanded <= limits[:, None]
        nearest[a:b] = np.argmax(is_near, axis=1)
        # Where rounding could decide, or a square overflowed, the differences do.
        unclear = np.flatnonzero((is_near.sum(axis=1) != 1) | ~np.isfinite(limits))
        if unclear.size:
            distances = pair_distances(part, np.repeat(unclear, n), centers, np.tile(np.arange(n), unclear.size))
            nearest[a + unclear] = np.argmin(distances.reshape(-1, n), axis=1)

    pool.run(work, len(rows), _ROWS_AT_ONCE)
    return nearest


def centroid_triplet_accuracy(data: np.ndarray, mapped: np.ndarray) -> ConfidenceInterval | None:
    """Return for all triplets of centroids how often the one nearer in the data is also nearer in the map.

    Parameters
    ----------
    data, mapped : ndarray of float64 (n_groups, n_dims), (n_groups, n_components)
        Centroids of the same groups.

    Returns
    -------
    ConfidenceInterval or None
        Without width, as every row and every triplet counts. None with fewer than three groups.
    """
    n = len(data)
    if n < _MIN_GROUPS:
        return None
    agree = 0
    for in_data, in_map in zip(_all_distances(data), _all_distances(mapped), strict=True):
        agree += int(np.count_nonzero((in_data[:, None] < in_data) == (in_map[:, None] < in_map)))
        agree -= n - 1  # of one centroid with itself
    share = agree / (n * (n - 1) * (n - 2))
    return ConfidenceInterval(share, share, share)


def _all_distances(points: np.ndarray) -> np.ndarray:
    """Return the distances from each of n points to the others (n, n - 1)."""
    n = len(points)
    i, j = np.triu_indices(n, 1)
    square = np.zeros((n, n))
    square[i, j] = square[j, i] = pair_distances(points, i, points, j)
    return square[~np.eye(n, dtype=bool)].reshape(n, n - 1)
