"""How well a map preserves the neighborhoods and distances of the data, measured on a sample of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from operator import index
from typing import Any

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.metrics.centroids import MAX_KMEANS_GROUPS, centroid_triplet_accuracy, largest_groups
from nomad_dask.metrics.confidence import ConfidenceInterval, mean_interval
from nomad_dask.metrics.labels import LABEL_NEIGHBORS, label_accuracy, label_codes
from nomad_dask.metrics.measure import Measurements, VectorReader, count_cores, fit_block_rows, measure
from nomad_dask.metrics.rank_correlation import rank_correlation
from nomad_dask.metrics.sample import Sample, draw_sample
from nomad_dask.params import METRICS
from nomad_dask.sources import open_source
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import to_host
from nomad_dask.utils.memory import parse_bytes

DEFAULT_KS = (10, 15, 50, 100)


@dataclass(frozen=True)
class Scores:
    """Quality of a map.

    Attributes
    ----------
    neighbors : dict of int to ConfidenceInterval
        Neighborhood preservation NP@k by k: share of a row's k nearest rows in the data that are among its k
        nearest in the map.
    triplets : ConfidenceInterval
        Random triplet accuracy (RTA): of a row and two random others, how often the one nearer in the data
        is also nearer in the map.
    centroid_triplets : ConfidenceInterval or None
        The same of all triplets of centroids of groups of rows (Huang et al., Commun. Biol. 5:719, 2022). Groups are
        the labels, at most the 256 most frequent; without labels, every row belongs to the nearest of up to 50
        K-Means centers of the sampled rows. All rows count, so the interval has no width. None with fewer than
        three groups.
    rank_correlation : ConfidenceInterval
        Spearman's rank correlation of distances in the data with distances in the map, from the sampled rows to
        random others (Kobak and Berens, Nat. Commun. 10:5416, 2019). Between -1 and 1; 0 if all distances are equal.
    labels : ConfidenceInterval or None
        Share of rows whose label is the most frequent among their 10 nearest neighbors in the map (in a tie, the
        label of the nearest row wins). None without labels.
    n_queries, n_triplets : int
        Number of rows and triplets measured. Rank correlation measures the two pairs of rows of each triplet.
    n_centroids : int
        Number of groups of `centroid_triplets`.
    """

    neighbors: dict[int, ConfidenceInterval]
    triplets: ConfidenceInterval
    centroid_triplets: ConfidenceInterval | None
    rank_correlation: ConfidenceInterval
    labels: ConfidenceInterval | None
    n_queries: int
    n_triplets: int
    n_centroids: int

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
    ks: Iterable[int] | None = None,
    metric: str = "euclidean",
    n_queries: int = 1000,
    n_triplets: int = 50_000,
    random_state: int = 0,
    max_bytes: int | str = 256 << 20,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score a map against the vectors it was made from, on a random sample of the rows.

    Parameters
    ----------
    source : Source, or any input of `nomad_dask.sources.open_source`
        The vectors ``(n_rows, n_dims)``, read twice in blocks. The scores do not depend on the blocks.
    positions : ndarray of shape (n_rows, n_components), CuPy array, Map, or data frame with ``x`` and ``y``
        The map. All positions must be finite.
    labels : array-like of shape (n_rows,), optional
        Strings or numbers, also as an Arrow array or a cuDF column. Rows whose label is null or NaN do not count.
        Without labels, there is no label accuracy, and centroid triplets are those of K-Means groups.
    ks : iterable of int, optional
        Neighborhood sizes of NP@k, below the number of rows less one: with more, all rows are neighbors. If rows tie
        for the k-th nearest, any of them counts. By default those of 10, 15, 50 and 100 that the map has rows for.
    metric : {'euclidean', 'cosine'}
        Distance between vectors.
    n_queries : int
        Number of rows to sample; at most all mapped rows.
    n_triplets : int
        Number of triplets to sample, rounded up to the same number for each query.
    random_state : int
        Seed of the sample. With the same seed, maps of the same rows are compared on the same sample.
    max_bytes : int or str
        Memory for blocks and queries, in addition to `positions` and `labels`.
    on_progress : callable, optional
        Called with the number of rows done, after every block of the second reading.

    Raises
    ------
    InputError
        An argument is out of range or of the wrong shape, a value of the data or a position is NaN or infinite, no
        sampled row has a label, or there are fewer than 3 rows.
    ResourceError
        `max_bytes` is too small for the queries.
    """
    source, positions = open_source(source), to_host(positions)
    _check_positions(source, positions)
    if metric not in METRICS:
        raise InputError(f"metric={metric!r} is not accepted. {suggest(str(metric), METRICS)}")
    for name, value, low in [
        ("n_queries", n_queries, 1),
        ("n_triplets", n_triplets, 1),
        ("random_state", random_state, 0),
    ]:
        whole_number(name, value, low)
    bytes_at_once = parse_bytes(max_bytes) or 0
    sizes = _neighborhood_sizes(ks, source.n_rows)
    sample = draw_sample(source.n_rows, n_queries, n_triplets, random_state)
    codes = None if labels is None else label_codes(labels, source.n_rows, sample.queries)
    groups = None if codes is None else largest_groups(codes)
    n_groups = MAX_KMEANS_GROUPS if groups is None else int(groups.max()) + 1
    block_rows = fit_block_rows(source, sample.queries.size, n_groups, bytes_at_once, count_cores())
    reader = VectorReader(source, metric, block_rows, on_progress)
    k_map = min(max(*sizes, LABEL_NEIGHBORS, 1), source.n_rows - 1)
    measured = measure(reader, positions, sample, groups, k_map, max(sizes, default=1))
    return _summarize(measured, sample, sizes, codes)


def whole_number(name: str, value: Any, low: int, high: int | None = None, reason: str = "") -> int:
    """Return a whole number of any integer type, after a check of its range.

    Raises
    ------
    InputError
    """
    accepted = f"from {low}" if high is None else f"from {low} to {high:,}"
    try:
        number = index(value)
    except TypeError as error:
        raise InputError(f"{name}={value!r} is not a whole number: give one {accepted}.") from error
    if number < low or (high is not None and number > high):
        raise InputError(f"{name}={number} is out of range: {reason}give a whole number {accepted}.")
    return number


def _check_positions(source: Source, positions: np.ndarray) -> None:
    """Check that there is a finite position for each row of the source."""
    if positions.ndim != 2 or positions.shape[1] < 1 or positions.dtype.kind not in "iuf":
        raise InputError(
            f"positions have shape {positions.shape} and dtype {positions.dtype}: give one row of coordinates for "
            f"each of the {source.n_rows:,} rows of {source.name}."
        )
    if len(positions) != source.n_rows:
        raise InputError(
            f"The map has {len(positions):,} rows and {source.name} has {source.n_rows:,}: score a map against the "
            "vectors that it was made from, row by row."
        )
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise InputError(
            f"{bad.size:,} of {len(positions):,} rows of the map have no finite position, the first is row {bad[0]:,} "
            f"with {', '.join(map(str, positions[bad[0]]))}: leave such rows out of the map and of the vectors."
        )


def _neighborhood_sizes(ks: Iterable[int] | None, n_rows: int) -> tuple[int, ...]:
    """Return the sizes to measure: the given ones, all of them, or the default ones that are possible."""
    if ks is None:
        return tuple(k for k in DEFAULT_KS if k < n_rows - 1)
    try:
        given = tuple(ks)
    except TypeError as error:
        raise InputError(f"ks={ks!r} is not accepted: give neighborhood sizes, such as [10, 15].") from error
    reason = f"of {n_rows:,} rows, all are neighbors, "
    return tuple(whole_number("k", k, 1, max(1, n_rows - 2), reason) for k in given)


def _summarize(measured: Measurements, sample: Sample, ks: tuple[int, ...], codes: np.ndarray | None) -> Scores:
    preserved = {k: _neighborhood_preservation(measured, k) for k in ks}
    return Scores(
        neighbors={k: mean_interval(values, sample.n_rows) for k, values in preserved.items()},
        triplets=mean_interval(_triplets_agree(measured), None),
        centroid_triplets=centroid_triplet_accuracy(measured.centroids, measured.map_centroids),
        rank_correlation=rank_correlation(
            *(d.reshape(len(d), -1) for d in (measured.pair_distances, measured.map_pair_distances))
        ),
        labels=None if codes is None else label_accuracy(codes, sample.queries, measured.map_neighbors),
        n_queries=sample.queries.size,
        n_triplets=sample.n_triplets,
        n_centroids=len(measured.centroids),
    )


def _neighborhood_preservation(measured: Measurements, k: int) -> np.ndarray:
    """Return NP@k of each query: the share of its map neighbors as near in the data as its k-th nearest row."""
    kth = measured.nearest_distances[:, k - 1 : k]
    # The same distance, computed in two ways, may differ by rounding.
    preserved: np.ndarray = (measured.neighbor_distances[:, :k] <= kth * (1 + 1e-12)).mean(axis=1)
    return preserved


def _triplets_agree(measured: Measurements) -> np.ndarray:
    """Return the share of each query's triplets whose nearer row is the same in the map and in the data."""
    left_is_nearer = [d[:, :, 0] < d[:, :, 1] for d in (measured.pair_distances, measured.map_pair_distances)]
    return np.asarray((left_is_nearer[0] == left_is_nearer[1]).mean(axis=1))
