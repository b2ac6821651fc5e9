"""How well a map preserves the neighborhoods and distances of the data, measured on a sample of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.metrics.confidence import ConfidenceInterval, mean_interval
from nomad_dask.metrics.labels import LABEL_NEIGHBORS, label_accuracy, label_codes
from nomad_dask.metrics.measure import Measurements, VectorReader, count_cores, fit_block_rows, measure
from nomad_dask.metrics.sample import Sample, draw_sample
from nomad_dask.params import METRICS
from nomad_dask.sources import open_source
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import to_host


@dataclass(frozen=True)
class Scores:
    """Quality of a map.

    Attributes
    ----------
    neighbors : dict of int to ConfidenceInterval
        Neighborhood preservation NP@k by k: share of a row's k nearest rows in the data that are among its k
        nearest in the map. Only for k below the number of mapped rows less one; above, all rows are neighbors.
    triplets : ConfidenceInterval
        Random triplet accuracy (RTA): of a row and two random others, how often the one nearer in the data
        is also nearer in the map.
    labels : ConfidenceInterval or None
        Share of rows whose label is the most frequent among their 10 nearest neighbors in the map (in a tie, the
        label of the nearest row wins). None without labels.
    n_queries, n_triplets : int
        Number of rows and triplets measured.
    """

    neighbors: dict[int, ConfidenceInterval]
    triplets: ConfidenceInterval
    labels: ConfidenceInterval | None
    n_queries: int
    n_triplets: int

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        plain = asdict(self)
        plain["neighbors"] = {str(k): interval for k, interval in plain["neighbors"].items()}
        return plain


def score(
    source: Any,
    positions: Any,
    *,
    labels: Any = None,
    ks: Iterable[int] = (10, 15, 50),
    metric: str = "euclidean",
    n_queries: int = 1000,
    n_triplets: int = 50_000,
    random_state: int = 0,
    max_bytes: int = 256 << 20,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score a map against the vectors it was made from, on a random sample of the rows.

    Parameters
    ----------
    source : Source, or any input of `nomad_dask.sources.open_source`
        The vectors ``(n_rows, n_dims)``, read twice in blocks. The scores do not depend on the blocks.
    positions : ndarray of shape (n_rows, n_components), CuPy array, or cuDF frame with ``x`` and ``y``
        The map. Rows with NaN are left out.
    labels : array-like of shape (n_rows,), optional
        Strings or numbers, also as an Arrow array or a cuDF column. Rows whose label is null or NaN do not count.
    ks : iterable of int
        Neighborhood sizes of NP@k. If rows tie for the k-th nearest, any of them counts.
    metric : {'euclidean', 'cosine'}
        Distance between vectors.
    n_queries : int
        Number of rows to sample; at most all mapped rows.
    n_triplets : int
        Number of triplets to sample, rounded up to the same number for each query.
    random_state : int
        Seed of the sample. With the same seed, maps of the same rows are compared on the same sample.
    max_bytes : int
        Memory for blocks and queries, in addition to `positions` and `labels`.
    on_progress : callable, optional
        Called with the number of rows done, after every block of the second reading.

    Raises
    ------
    InputError
        An argument is out of range or of the wrong shape, or fewer than 3 rows have positions.
    ResourceError
        `max_bytes` is too small for the queries.
    """
    source, positions = open_source(source), to_host(positions)
    ks = _check_arguments(source, positions, ks, metric, n_queries, n_triplets)
    codes = None if labels is None else label_codes(labels, source.n_rows)
    sample = draw_sample(positions, n_queries, n_triplets, random_state)
    ks = tuple(k for k in ks if k < sample.mapped.size - 1)
    block_rows = fit_block_rows(source, sample.queries.size, max_bytes, count_cores())
    reader = VectorReader(source, metric, block_rows, on_progress)
    k_map = min(max(*ks, LABEL_NEIGHBORS, 1), sample.mapped.size - 1)
    return _summarize(measure(reader, positions, sample, k_map, max(ks, default=1)), sample, ks, codes)


def _check_arguments(
    source: Source, positions: np.ndarray, ks: Iterable[int], metric: str, n_queries: int, n_triplets: int
) -> tuple[int, ...]:
    """Check the arguments of `score`, and return `ks` as a tuple."""
    if positions.ndim != 2 or positions.shape[0] != source.n_rows or positions.shape[1] < 1:
        raise InputError(
            f"positions have shape {positions.shape}: give one row of coordinates for each of the "
            f"{source.n_rows} rows of {source.name}."
        )
    if metric not in METRICS:
        raise InputError(f"metric={metric!r} is not accepted. {suggest(metric, METRICS)}")
    ks = tuple(ks)
    for name, value in [("n_queries", n_queries), ("n_triplets", n_triplets), *(("k", k) for k in ks)]:
        if value < 1:
            raise InputError(f"{name}={value} is out of range: give a whole number from 1.")
    return ks


def _summarize(measured: Measurements, sample: Sample, ks: tuple[int, ...], codes: np.ndarray | None) -> Scores:
    preserved = {k: _neighborhood_preservation(measured, k) for k in ks}
    return Scores(
        neighbors={k: mean_interval(values, sample.mapped.size) for k, values in preserved.items()},
        triplets=mean_interval(measured.triplets_agree, None),
        labels=None if codes is None else label_accuracy(codes, sample.queries, measured.map_neighbors, sample.mapped),
        n_queries=sample.queries.size,
        n_triplets=sample.n_triplets,
    )


def _neighborhood_preservation(measured: Measurements, k: int) -> np.ndarray:
    """Return NP@k of each query: the share of its map neighbors as near in the data as its k-th nearest row."""
    kth = measured.nearest_distances[:, k - 1 : k]
    # The same distance, computed in two ways, may differ by rounding.
    preserved: np.ndarray = (measured.neighbor_distances[:, :k] <= kth * (1 + 1e-12)).mean(axis=1)
    return preserved
