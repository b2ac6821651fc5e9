"""Rank correlation: whether the order of distances between random rows is the same in the map and in the data."""

from __future__ import annotations

import numpy as np

from nomad_dask.metrics.confidence import ConfidenceInterval, correlation_interval


def rank_correlation(data: np.ndarray, mapped: np.ndarray) -> ConfidenceInterval:
    """Return Spearman's rank correlation of distances in the data with those in the map, over all pairs of rows.

    The interval takes each query with all its pairs as one draw, by the influence of every pair on the correlation
    (Hampel, J. Am. Stat. Assoc. 69, 1974), as pairs that share a row are not independent. Equal distances have the
    mean of their ranks, as in `scipy.stats.spearmanr`, whose import would take longer than most scores.

    Parameters
    ----------
    data, mapped : ndarray of float64 (n_queries, n_pairs)
        Distances from each query to the same rows.

    Returns
    -------
    ConfidenceInterval
        0 if all distances are the same in the data or in the map: such distances have no order.
    """
    if np.ptp(data) == 0 or np.ptp(mapped) == 0:
        return ConfidenceInterval(0.0, 0.0, 0.0)
    x, y = _Ranks(data.ravel()), _Ranks(mapped.ravel())
    scale = x.ranks.std() * y.ranks.std()
    value = float(np.clip(((x.ranks - x.ranks.mean()) * (y.ranks - y.ranks.mean())).mean() / scale, -1, 1))
    n_queries = len(data)
    if n_queries == 1:
        return ConfidenceInterval(value, -1.0, 1.0)
    influence = (x.ranks * y.ranks + x.mean_above(y.ranks) + y.mean_above(x.ranks)) / scale
    of_queries = influence.reshape(data.shape).mean(axis=1)
    return correlation_interval(value, float(of_queries.std(ddof=1) / np.sqrt(n_queries)))


class _Ranks:
    """The order of distances (n,).

    Attributes
    ----------
    ranks : ndarray of float64 (n,)
        Share of the distances that are smaller, and half of those that are equal.
    """

    def __init__(self, distances: np.ndarray) -> None:
        self._order = np.argsort(distances, kind="stable")
        ascending = distances[self._order]
        self._first, self._behind = (np.searchsorted(ascending, distances, side) for side in ("left", "right"))
        self.ranks: np.ndarray = (self._first + self._behind) / (2 * distances.size)

    def mean_above(self, values: np.ndarray) -> np.ndarray:
        """Return for each distance the sum of `values` at larger ones and half of that at equal ones, over n."""
        sums = np.append(np.cumsum(values[self._order][::-1])[::-1], 0)
        return np.asarray((sums[self._first] + sums[self._behind]) / (2 * values.size))
