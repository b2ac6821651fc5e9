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
    n_rows : int
        Number of rows that the sample is drawn from.
    queries : ndarray of int64 (n_queries,)
        Row numbers of the sampled rows, ascending.
    pairs : ndarray of int64 (n_queries, n_pairs, 2)
        Row numbers of the pairs that form a triplet with each query.
    """

    n_rows: int
    queries: np.ndarray
    pairs: np.ndarray

    @property
    def n_triplets(self) -> int:
        """Number of triplets."""
        return int(self.pairs.shape[0] * self.pairs.shape[1])


def draw_sample(n_rows: int, n_queries: int, n_triplets: int, random_state: int) -> Sample:
    """Draw queries among the rows, and about `n_triplets` triplets, equally many per query.

    Raises
    ------
    InputError
        There are fewer than 3 rows.
    """
    if n_rows < 3:
        raise InputError(f"The map has {n_rows} rows: a score requires at least 3, so give the map of more rows.")
    rng = np.random.default_rng(random_state)
    n_queries = min(n_queries, n_rows)
    chosen = np.sort(rng.choice(n_rows, n_queries, replace=False))
    return Sample(n_rows, chosen, random_pairs(rng, chosen, n_rows, -(-n_triplets // n_queries)))


def random_pairs(rng: np.random.Generator, chosen: np.ndarray, n: int, count: int) -> np.ndarray:
    """Draw `count` pairs from ``range(n)`` for each of `chosen`; the three numbers of a triplet differ."""
    own = chosen[:, None]
    left = rng.integers(n - 1, size=(chosen.size, count))
    left += left >= own
    right = rng.integers(n - 2, size=(chosen.size, count))
    right += right >= np.minimum(own, left)
    right += right >= np.maximum(own, left)
    return np.stack([left, right], axis=2)
