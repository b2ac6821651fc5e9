"""Exact distances from queries to rows that are read in blocks, and the nearest rows of each query."""

from __future__ import annotations

import numpy as np

from nomad_dask.utils.threads import Threads

QUERIES_AT_ONCE = 128
_CACHED_VALUES = 1 << 17  # float64 differences that a thread computes at once, so that they stay in its cache
_MAX_MEASURED = 1024  # rows of a block that are measured for one query, unless k is larger


def pair_distances(a: np.ndarray, i: np.ndarray, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return the squared distances between rows ``a[i]`` and ``b[j]`` in float64, `a` being float64."""
    out = np.empty(i.size)
    step = max(1, _CACHED_VALUES // a.shape[1])
    for s in range(0, i.size, step):
        difference = a[i[s : s + step]]
        difference -= b[j[s : s + step]]
        np.einsum("ij,ij->i", difference, difference, out=out[s : s + step])
    return out


class StreamingDistances:
    """Exact squared distances from queries to chosen rows, collected block by block.

    Attributes
    ----------
    distances : ndarray of float64, shaped as `targets`
        Distance from query i to row ``targets[i, j]``.
    """

    def __init__(self, queries: np.ndarray, targets: np.ndarray) -> None:
        self.queries = queries
        self.distances: np.ndarray = np.full(targets.shape, np.nan)
        self._order = np.argsort(targets, axis=None, kind="stable")
        self._targets = targets.ravel()[self._order]

    def update(self, rows: np.ndarray, start: int, pool: Threads) -> None:
        """Fill in the distances to `rows`, which begin at row number `start`."""
        first, last = np.searchsorted(self._targets, [start, start + len(rows)])
        flat = self.distances.reshape(-1)

        def work(a: int, b: int) -> None:
            slots = self._order[first + a : first + b]
            targets = self._targets[first + a : first + b] - start
            flat[slots] = pair_distances(self.queries, slots // self.distances.shape[1], rows, targets)

        pool.run(work, int(last - first), 4096)


class StreamingKNN:
    """The k nearest rows of each query among all rows compared so far.

    A matrix product in float32 bounds every distance from below; only rows whose bound is within the k-th
    distance found so far are measured in float64. The result is exact, unless more than a thousand rows of one
    block are as near as the k-th to float32 rounding: then only the thousand with the lowest bounds are measured.

    Attributes
    ----------
    distances : ndarray of shape (n_queries, k), float64
        Squared, ascending; infinity where fewer than k rows were compared.
    ids : ndarray of shape (n_queries, k), int64
        Their row numbers.
    """

    def __init__(self, queries: np.ndarray, own: np.ndarray, k: int) -> None:
        self.queries = queries
        self.k = k
        self.distances = np.full((own.size, k), np.inf)
        self.ids = np.full((own.size, k), -1)
        self._own = own
        # Exact in float32, so that rows of either precision are shifted by the same amount.
        self._center = np.median(queries, axis=0).astype(np.float32)
        centered = queries - self._center
        self._scale = 1 / (np.sqrt(np.einsum("ij,ij->", centered, centered) / own.size) or 1.0)
        centered *= self._scale
        self._norms = np.einsum("ij,ij->i", centered, centered)
        self._minus_twice = (-2 * centered).astype(np.float32)
        # |error| of |q|² + |x|² − 2q·x in float32 is below slack·(|q|² + |x|²): Higham, Accuracy and
        # Stability of Numerical Algorithms, §3.1, with a margin for the casts.
        self._slack = 2 * (queries.shape[1] + 16) * float(np.finfo(np.float32).eps)

    def update(self, rows: np.ndarray, ids: np.ndarray, pool: Threads) -> None:
        """Compare every query with `rows`; their row numbers `ids` ascend, also from one call to the next."""
        centered = (rows - self._center).astype(np.float32, copy=False)
        centered *= np.float32(self._scale)
        norms = np.einsum("ij,ij->i", centered, centered)
        low_norms = norms * np.float32(1 - self._slack)
        spread = norms * np.float32(2 * self._slack)  # from the lower bound to the upper, without the term in |q|²
        max_measured = max(_MAX_MEASURED, self.k)

        def work(a: int, b: int) -> None:
            bounds = self._minus_twice[a:b] @ centered.T
            bounds += low_norms
            # A query is not its own neighbor.
            column = np.searchsorted(ids, self._own[a:b])
            column[column == ids.size] = 0
            itself = np.flatnonzero(ids[column] == self._own[a:b])
            bounds[itself, column[itself]] = np.inf
            limit = self.distances[a:b, -1] * self._scale**2 - self._norms[a:b] * (1 - self._slack)
            near_enough = bounds <= limit.astype(np.float32)[:, None]
            for i in np.flatnonzero(np.count_nonzero(near_enough, axis=1) > 2 * self.k + 16):
                # Too many pass the first limit; the k-th of the upper bounds is a narrower one.
                kth = np.partition(bounds[i] + spread, min(self.k, ids.size) - 1)[min(self.k, ids.size) - 1]
                near_enough[i] &= bounds[i] <= kth + 2 * self._slack * self._norms[a + i]
                if np.count_nonzero(near_enough[i]) > max_measured:
                    near_enough[i] = False
                    near_enough[i, np.argpartition(bounds[i], max_measured)[:max_measured]] = True
            near_enough[itself, column[itself]] = False
            query, row = np.divmod(np.flatnonzero(near_enough), ids.size)
            if query.size:
                exact = pair_distances(self.queries, query + a, rows, row)
                self._merge(a, b, query, exact, ids[row])

        if ids.size:
            pool.run(work, len(self.queries), QUERIES_AT_ONCE)

    def _merge(self, a: int, b: int, query: np.ndarray, distances: np.ndarray, ids: np.ndarray) -> None:
        """Merge new rows, in order of query and row number, into the nearest rows of queries `a` to `b`."""
        counts = np.bincount(query, minlength=b - a)
        column = np.arange(query.size) - np.repeat(np.cumsum(counts) - counts, counts) + self.k
        shape = (b - a, self.k + int(counts.max()))
        all_distances, all_ids = np.full(shape, np.inf), np.full(shape, -1)
        all_distances[:, : self.k], all_ids[:, : self.k] = self.distances[a:b], self.ids[a:b]
        all_distances[query, column], all_ids[query, column] = distances, ids
        best = np.argsort(all_distances, axis=1, kind="stable")[:, : self.k]
        self.distances[a:b] = np.take_along_axis(all_distances, best, axis=1)
        self.ids[a:b] = np.take_along_axis(all_ids, best, axis=1)
