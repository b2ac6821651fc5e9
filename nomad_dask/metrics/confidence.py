"""Confidence intervals of scores that are measured on a sample of the rows.

Those of shares of rows account for sampling without replacement from a finite number of rows: they have no width when
every row is measured (Cochran, Sampling Techniques, 1977, §2.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_Z95 = 1.959964


@dataclass(frozen=True)
class ConfidenceInterval:
    """A score with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, population: int | None) -> ConfidenceInterval:
    """Return the mean of a sample of shares with its normal interval.

    Parameters
    ----------
    values : ndarray of float (n,)
    population : int or None
        Number of values the sample was drawn from; None for an infinite population.
    """
    mean = float(values.mean())
    if values.size == population:
        return ConfidenceInterval(mean, mean, mean)
    if values.size == 1:
        return ConfidenceInterval(mean, 0.0, 1.0)
    unsampled_share = 1.0 if population is None else 1 - values.size / population
    half = _Z95 * float(np.sqrt(values.var(ddof=1) * unsampled_share / values.size))
    return ConfidenceInterval(mean, max(0.0, mean - half), min(1.0, mean + half))


def proportion_interval(hits: np.ndarray, population: int) -> ConfidenceInterval:
    """Return the share of hits in a sample with its interval (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Parameters
    ----------
    hits : ndarray of bool (n,)
    population : int
        Number of values the sample was drawn from.
    """
    p = float(hits.mean())
    if hits.size == population:
        return ConfidenceInterval(p, p, p)
    n = hits.size * (population - 1) / (population - hits.size)
    center = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * float(np.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n)))
    return ConfidenceInterval(p, min(p, max(0.0, center - half)), max(p, min(1.0, center + half)))


def correlation_interval(value: float, standard_error: float) -> ConfidenceInterval:
    """Return a correlation with its normal interval, cut off at -1 and 1."""
    half = _Z95 * standard_error
    return ConfidenceInterval(value, max(-1.0, value - half), min(1.0, value + half))
