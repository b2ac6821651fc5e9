"""The rows and triplets that a score measures, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.errors import InputError


@dataclass(frozen=True)
class Sample:
    """Rows and triplets to measure.

    Attributes
    ----------
    mapped : ndarray of int64 (n_mapped,)
        Row numbers of all rows with positions, ascending.
    queries : ndarray of int64 (n_queries,)
        Row numbers of the sampled rows, ascending.
    pairs : ndarray of int64 (n_queries, n_pairs, 2)
        Row numbers of the pairs that form a triplet with each query.
    """

    mapped: np.ndarray
    queries: np.ndarray
    pairs: np.ndarray

    @property
    def n_triplets(self) -> int:
        """Number of triplets."""
        return int(self.pairs.shape[0] * self.pairs.shape[1])


def draw_sample(positions: np.ndarray, n_queries: int, n_triplets: int, random_state: int) -> Sample:
    """Draw queries among the rows with positions, and about `n_triplets` triplets, equally many per query.

    Raises
    ------
    InputError
        Fewer than 3 rows have positions.
    """
    mapped = np.flatnonzero(np.isfinite(positions).all(axis=1))
    if mapped.size < 3:
        raise InputError(
            f"{mapped.size} of {len(positions)} rows have positions: a score requires at least 3, "
            "so give the map of more rows."
        )
    rng = np.random.default_rng(random_state)
    n_queries = min(n_queries, mapped.size)
    chosen = np.sort(rng.choice(mapped.size, n_queries, replace=False))
    pairs = random_pairs(rng, chosen, mapped.size, -(-n_triplets // n_queries))
    return Sample(mapped, mapped[chosen], mapped[pairs])


def random_pairs(rng: np.random.Generator, chosen: np.ndarray, n: int, count: int) -> np.ndarray:
    """Draw `count` pairs from ``range(n)`` for each of `chosen`; the three numbers of a triplet differ."""
    own = chosen[:, None]
    left = rng.integers(n - 1, size=(chosen.size, count))
    left += left >= own
    right = rng.integers(n - 2, size=(chosen.size, count))
    right += right >= np.minimum(own, left)
    right += right >= np.maximum(own, left)
    return np.stack([left, right], axis=2)
