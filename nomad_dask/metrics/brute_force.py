"""Exact distances from queries to rows that are read in blocks, and the nearest rows of each query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.metrics.distances import pair_distances
from nomad_dask.utils.row_norms import power_of_two, row_norms
from nomad_dask.utils.threads import Threads

QUERIES_AT_ONCE = 128
_MEASURED_AT_ONCE = 1024  # rows that are measured for one query before the next ones are compared with the result
# Beyond this norm, in units of the median norm of the queries, float32 cannot bound a distance.
_FAR = 1e15
# Squares below this are lost in float32.
_UNDERFLOW = 1e-36
_MAX_FLOAT32 = 3e38


class StreamingDistances:
    """Exact distances from queries to chosen rows, collected block by block.

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


@dataclass(frozen=True)
class _Block:
    """Rows in the units of a search, and the parts of the bounds that depend on them alone.

    Attributes
    ----------
    centered : ndarray of float32 (n_rows, n_dims)
        Zero for rows beyond the range.
    norms : ndarray of float64 (n_rows,)
    low, spread : ndarray of float32 (n_rows,)
        Lower bound of ``|x|²``, and the distance from the lower bound to the upper one.
    """

    centered: np.ndarray
    norms: np.ndarray
    low: np.ndarray
    spread: np.ndarray


class StreamingKNN:
    """The k nearest rows of each query among all rows compared so far; of equally near rows, the first ones.

    A matrix product in float32 bounds every distance from below; only rows whose bound is within the k-th
    distance found so far are measured in float64, those with the lowest bounds first. The result is exact for any
    finite rows.

    Parameters
    ----------
    queries : ndarray of float64 (n_queries, n_dims)
    own : ndarray of int64 (n_queries,)
        Their row numbers, as a row is not its own neighbor.
    k : int

    Attributes
    ----------
    distances : ndarray of shape (n_queries, k), float64
        Ascending; infinity where fewer than k rows were compared.
    ids : ndarray of shape (n_queries, k), int64
        Their row numbers.
    """

    def __init__(self, queries: np.ndarray, own: np.ndarray, k: int) -> None:
        self.queries = queries
        self.k = k
        self.distances = np.full((own.size, k), np.inf)
        self.ids = np.full((own.size, k), -1)
        self._own = own
        self._center = np.median(queries, axis=0)
        norms = row_norms(queries - self._center)
        # The median: a few far queries must not scale all others to nothing. A power of two, so that scaling is exact.
        typical = float(np.median(norms[norms > 0])) if norms.any() else 1.0
        self._scale = float(power_of_two(-int(np.frexp(typical)[1])))
        self._norms = self._scaled(norms)  # from here on, in units of about the typical norm
        self._far = self._norms > _FAR
        self._max_near = float(self._norms[~self._far].max(initial=0))
        centered = self._scaled(queries - self._center)
        centered[self._far] = 0
        self._minus_twice = (-2 * centered).astype(np.float32)
        # |error| of |q|² + |x|² − 2q·x in float32 is below slack·(|q|² + |x|²): Higham, Accuracy and
        # Stability of Numerical Algorithms, §3.1, with a margin for the casts.
        self._slack = 2 * (queries.shape[1] + 16) * float(np.finfo(np.float32).eps)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(values * self._scale)

    def update(self, rows: np.ndarray, ids: np.ndarray, pool: Threads) -> None:
        """Compare every query with float64 `rows`; their numbers `ids` ascend, also from one call to the next."""
        if not ids.size:
            return
        block = self._bound(rows)

        def work(a: int, b: int) -> None:
            bounds = self._lower_bounds(block, a, b)
            # A query is not its own neighbor.
            column = np.searchsorted(ids, self._own[a:b])
            column[column == ids.size] = 0
            itself = np.flatnonzero(ids[column] == self._own[a:b])
            bounds[itself, column[itself]] = np.inf
            # A bound that is not a number excludes nothing.
            possible = ~(bounds > self._limits(a, b)[:, None])
            possible[itself, column[itself]] = False
            possible[self.distances[a:b, -1] == 0] = False  # nothing is nearer than equal rows
            for i in np.flatnonzero(np.count_nonzero(possible, axis=1) > 2 * self.k + 16).tolist():
                self._narrow(a + i, bounds[i], possible[i], block)
                if np.count_nonzero(possible[i]) > max(_MEASURED_AT_ONCE, self.k):
                    self._measure_in_order(a + i, bounds[i], possible[i], rows, ids)
                    possible[i] = False
            query, row = np.divmod(np.flatnonzero(possible), ids.size)
            if query.size:
                self._merge(a, b, query, pair_distances(self.queries, query + a, rows, row), ids[row])

        pool.run(work, len(self.queries), QUERIES_AT_ONCE)

    def _bound(self, rows: np.ndarray) -> _Block:
        """Return what bounds the distances to rows."""
        centered = self._scaled(rows - self._center)
        norms = row_norms(centered)
        far = ~(norms <= _FAR)
        centered[far] = 0
        with np.errstate(over="ignore"):
            low, spread = norms**2 * (1 - self._slack), norms**2 * (2 * self._slack)
            # |q − x|² − |q|² is at least |x|² − 2|q||x|; nothing bounds it from above.
            low[far], spread[far] = norms[far] * (norms[far] * (1 - self._slack) - 2 * self._max_near), np.inf
        np.minimum(low, _MAX_FLOAT32, out=low)
        return _Block(centered.astype(np.float32), norms, low.astype(np.float32), spread.astype(np.float32))

    def _lower_bounds(self, block: _Block, a: int, b: int) -> np.ndarray:
        """Return for queries `a` to `b` lower bounds, float32 (b - a, n_rows), to be compared with `_limits`."""
        bounds = self._minus_twice[a:b] @ block.centered.T
        bounds += block.low
        for i in np.flatnonzero(self._far[a:b]):
            # The difference of the norms, as float32 has no squares of such numbers.
            sums = block.norms + self._norms[a + i]
            with np.errstate(invalid="ignore"):
                differences = np.abs(block.norms - self._norms[a + i]) - 1e-9 * sums
            bounds[i] = np.clip(differences, -_MAX_FLOAT32, _MAX_FLOAT32)
        return np.asarray(bounds)

    def _limits(self, a: int, b: int) -> np.ndarray:
        """Return for queries `a` to `b` the bound, float32 (b - a,), beyond which a row is not among the nearest."""
        kth, own = self._scaled(self.distances[a:b, -1]), self._norms[a:b]
        far = self._far[a:b]
        with np.errstate(over="ignore"):
            near = kth**2 - np.where(far, 0, own) ** 2 * (1 - self._slack) + _UNDERFLOW
            return np.asarray(np.nextafter(np.where(far, kth, near).astype(np.float32), np.float32(np.inf)))

    def _narrow(self, query: int, bounds: np.ndarray, possible: np.ndarray, block: _Block) -> None:
        """Exclude rows whose lower bound is above the k-th of the upper bounds; with the first rows, most are."""
        if self._far[query]:
            return
        k = min(self.k, bounds.size) - 1
        kth = np.partition(bounds + block.spread, k)[k]
        possible &= ~(bounds > kth + np.float32(2 * self._slack * self._norms[query] ** 2 + _UNDERFLOW))

    def _measure_in_order(
        self, query: int, bounds: np.ndarray, possible: np.ndarray, rows: np.ndarray, ids: np.ndarray
    ) -> None:
        """Measure many possible rows of one query, until the bounds exclude the rest."""
        candidates = np.flatnonzero(possible)
        candidates = candidates[np.argsort(bounds[candidates], kind="stable")]
        step = max(_MEASURED_AT_ONCE, self.k)
        for start in range(0, candidates.size, step):
            part = np.sort(candidates[start : start + step])
            limit = self._limits(query, query + 1)[0]
            if self.distances[query, -1] == 0 or bounds[candidates[start]] > limit:
                break
            own = np.full(part.size, query)
            self._merge(
                query,
                query + 1,
                np.zeros(part.size, np.int64),
                pair_distances(self.queries, own, rows, part),
                ids[part],
            )

    def _merge(self, a: int, b: int, query: np.ndarray, distances: np.ndarray, ids: np.ndarray) -> None:
        """Merge new rows, in order of query, into the nearest rows of queries `a` to `b`."""
        counts = np.bincount(query, minlength=b - a)
        column = np.arange(query.size) - np.repeat(np.cumsum(counts) - counts, counts) + self.k
        shape = (b - a, self.k + int(counts.max()))
        all_distances, all_ids = np.full(shape, np.inf), np.full(shape, np.iinfo(np.int64).max)
        all_distances[:, : self.k], all_ids[:, : self.k] = self.distances[a:b], self.ids[a:b]
        all_distances[query, column], all_ids[query, column] = distances, ids
        best = np.lexsort((all_ids, all_distances), axis=1)[:, : self.k]
        self.distances[a:b] = np.take_along_axis(all_distances, best, axis=1)
        self.ids[a:b] = np.take_along_axis(all_ids, best, axis=1)
