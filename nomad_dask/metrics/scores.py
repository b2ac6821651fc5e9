"""How well a map keeps what is near and far in the data, measured on a sample, in bounded memory.

The queries are a random sample of the mapped rows. Everything else streams past them in blocks, so memory
does not grow with the number of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.row_reader import normalized
from nomad_dask.errors import InputError, ResourceError, suggest
from nomad_dask.metrics.brute_force import QUERIES_AT_ONCE, StreamingDistances, StreamingKNN, pair_distances
from nomad_dask.params import METRICS
from nomad_dask.sources import open_source
from nomad_dask.sources.base import Source
from nomad_dask.utils.array_types import library_of, to_host
from nomad_dask.utils.threads import thread_pool

Z95 = 1.959964
LABEL_NEIGHBORS = 10
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class ConfidenceInterval:
    """A share between 0 and 1 with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """How good a map is.

    Attributes
    ----------
    neighbors : dict of int to Estimate
        NP@k by k: share of a row's k nearest rows in the data that are among its k nearest in the map.
        Only those k that leave a choice, below the number of mapped rows less one.
    triplets : Estimate
        Random triplet accuracy (RTA): of a row and two random others, how often the nearer one in the data
        is the nearer one in the map.
    labels : Estimate or None
        Share of rows whose label is the most frequent among their 10 nearest in the map (themselves left
        out; a tie goes to the label of the nearer row). None without labels.
    n_queries, n_triplets : int
        Rows and triplets measured.
    """

    neighbors: dict[int, ConfidenceInterval]
    triplets: ConfidenceInterval
    labels: ConfidenceInterval | None
    n_queries: int
    n_triplets: int

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        plain = asdict(self)
        plain["neighbors"] = {str(k): estimate for k, estimate in plain["neighbors"].items()}
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
    advance: Callable[[int], None] | None = None,
) -> Scores:
    """Score a map against the vectors it was made from.

    The source is read twice: once for the blocks that hold queries, once for all blocks. The result does not
    depend on the size of the blocks. Where rows tie for the place of the k-th nearest, any of them counts.

    The intervals of NP@k and RTA take the values of the queries as normal around their mean; those of label
    accuracy are Wilson's (J. Am. Stat. Assoc. 22, 1927). Both shrink to nothing as the queries become all
    rows (Cochran, Sampling Techniques, 1977, §2.6), but for RTA, whose triplets stay a sample.

    Parameters
    ----------
    source : Source, or what `nomad_dask.sources.open_source` opens
        The vectors ``(n_rows, n_dims)``. Those on a GPU are downloaded block by block.
    positions : ndarray of shape (n_rows, n_components), CuPy array, or cuDF frame with ``x`` and ``y``
        The map. Rows with NaN are left out.
    labels : array-like of shape (n_rows,), optional
        Strings, numbers, an Arrow array, or a column of cuDF. Rows whose label is null or NaN neither ask nor vote.
    ks : iterable of int
        Neighbourhood sizes of NP@k.
    metric : {'euclidean', 'cosine'}
        Distance between vectors.
    n_queries : int
        Rows sampled; at most all mapped rows are.
    n_triplets : int
        Triplets wanted; every query gets the same number, so there may be some more.
    random_state : int
        Chooses queries and triplets: maps of the same rows are compared on the same ones.
    max_bytes : int
        Memory for blocks and queries, beside `positions` and `labels`.
    advance : callable, optional
        Told the number of rows of the source done so far, after every block of the second reading.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        An argument is out of range or of the wrong shape, or fewer than 3 rows have positions.
    ResourceError
        `max_bytes` is too small for the queries.
    """
    source, positions = open_source(source), to_host(positions)
    ks = _checked(source, positions, ks, metric, n_queries, n_triplets)
    codes = None if labels is None else _label_codes(labels, source.n_rows)
    placed = np.flatnonzero(np.isfinite(positions).all(axis=1))
    if placed.size < 3:
        raise InputError(
            f"{placed.size} of {source.n_rows} rows have positions: a score needs at least 3, "
            "so give the map of more rows."
        )
    rng = np.random.default_rng(random_state)
    n_queries = min(n_queries, placed.size)
    chosen = np.sort(rng.choice(placed.size, n_queries, replace=False))
    queries = placed[chosen]
    pairs = placed[_random_pairs(rng, chosen, placed.size, -(-n_triplets // n_queries))]
    ks = tuple(k for k in ks if k < placed.size - 1)
    k_data, k_map = max(ks, default=1), min(max(*ks, LABEL_NEIGHBORS, 1), placed.size - 1)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows_at_once = _block_rows(source, n_queries, max_bytes, cores)
    with thread_pool(cores) as pool:
        in_map = StreamingKNN(positions[queries].astype(np.float64), queries, k_map)
        for start in range(0, source.n_rows, rows_at_once):
            rows = positions[start : start + rows_at_once]
            mapped = np.flatnonzero(np.isfinite(rows).all(axis=1))
            in_map.offer(rows[mapped], start + mapped, pool)

        vectors = _gather(source, queries, metric, rows_at_once)
        in_data = StreamingKNN(vectors, queries, k_data)
        # The neighbours in the map, then the two ends of each triplet: their distances decide the rest.
        wanted = StreamingDistances(vectors, np.hstack([in_map.ids, pairs[:, :, 0], pairs[:, :, 1]]))
        mapped_rows = np.zeros(source.n_rows, bool)
        mapped_rows[placed] = True
        for start, block in source.iterate(rows_at_once):
            rows = _comparable(block, metric)
            wanted.update(rows, start, pool)
            mapped = np.flatnonzero(mapped_rows[start : start + len(rows)])
            in_data.offer(rows if mapped.size == len(rows) else rows[mapped], start + mapped, pool)
            if advance is not None:
                advance(start + len(rows))

    of_neighbors, of_left, of_right = np.split(wanted.distances, [k_map, k_map + pairs.shape[1]], axis=1)
    kept = {k: _kept(of_neighbors[:, :k], in_data.distances[:, k - 1]) for k in ks}
    nearer_in_map = _map_distances(positions, queries, pairs[:, :, 0]) < _map_distances(
        positions, queries, pairs[:, :, 1]
    )
    agree = ((of_left < of_right) == nearer_in_map).mean(axis=1)
    return Scores(
        neighbors={k: _mean_estimate(kept[k], placed.size) for k in ks},
        triplets=_mean_estimate(agree, None),
        labels=None if codes is None else _label_accuracy(codes, queries, in_map.ids, placed),
        n_queries=n_queries,
        n_triplets=pairs.shape[0] * pairs.shape[1],
    )


def _checked(
    source: Source, positions: np.ndarray, ks: Iterable[int], metric: str, n_queries: int, n_triplets: int
) -> tuple[int, ...]:
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


def _label_codes(labels: Any, n_rows: int) -> np.ndarray:
    """Return an int code for each label, -1 where it is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    library = library_of(labels)
    if library in ("cupy", "cudf"):
        labels = labels.get() if library == "cupy" else labels.to_arrow()
    try:
        arrow = labels if isinstance(labels, pa.Array | pa.ChunkedArray) else pa.array(labels, from_pandas=True)
        if isinstance(arrow, pa.ChunkedArray):
            arrow = arrow.unify_dictionaries().combine_chunks()
        encoded = arrow if pa.types.is_dictionary(arrow.type) else pc.dictionary_encode(arrow)
    except pa.ArrowException as error:
        raise InputError(f"labels cannot be read ({error}): give strings or numbers of one kind.") from error
    if len(encoded) != n_rows:
        raise InputError(f"{len(encoded)} labels for {n_rows} rows: give one label for each row.")
    codes: np.ndarray = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _random_pairs(rng: np.random.Generator, own: np.ndarray, n: int, count: int) -> np.ndarray:
    """Draw `count` pairs out of ``range(n)`` for each of `own`, three different numbers in every triplet."""
    me = own[:, None]
    left = rng.integers(n - 1, size=(own.size, count))
    left += left >= me
    right = rng.integers(n - 2, size=(own.size, count))
    right += right >= np.minimum(me, left)
    right += right >= np.maximum(me, left)
    return np.stack([left, right], axis=2)


def _block_rows(source: Source, n_queries: int, max_bytes: int, cores: int) -> int:
    """Return how many rows fit in a block beside the queries."""
    of_queries = n_queries * source.n_dims * 24  # float64, float32 and what it takes to make them
    per_row = source.n_dims * (source.dtype.itemsize + 24) + cores * QUERIES_AT_ONCE * 6
    rows = (max_bytes - of_queries) // per_row
    if rows < 64:
        raise ResourceError(
            f"max_bytes={max_bytes:,} cannot hold {n_queries:,} queries of {source.n_dims} dimensions and a "
            f"block: give fewer queries, or at least {of_queries + 64 * per_row:,} bytes."
        )
    return int(min(rows, _BLOCK_ROWS))


def _comparable(block: np.ndarray, metric: str) -> np.ndarray:
    """Return rows as floats whose Euclidean distances order them as `metric` does; exact casts only."""
    if metric == "cosine":
        return normalized(block.astype(np.float64))
    return block.astype(np.result_type(block.dtype, np.float32), copy=False)


def _gather(source: Source, rows: np.ndarray, metric: str, rows_at_once: int) -> np.ndarray:
    """Read the given rows, ascending, as float64 ``(rows.size, n_dims)``; blocks without any are skipped."""
    gathered = np.empty((rows.size, source.n_dims), np.float64)
    for start, stop in source.blocks(rows_at_once):
        a, b = np.searchsorted(rows, [start, stop])
        if a < b:
            gathered[a:b] = _comparable(source.read(start, stop)[rows[a:b] - start], metric)
    return gathered


def _map_distances(positions: np.ndarray, queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the squared distances in the map from each query to its others, shaped as `others`."""
    own = positions[queries].astype(np.float64)
    query = np.repeat(np.arange(queries.size), others.shape[1])
    return pair_distances(own, query, positions, others.ravel()).reshape(others.shape)


def _kept(in_data: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """Return NP@k of each query from the data distances of its k map neighbours and its k-th in the data."""
    # The same distance may come out of two places a rounding apart.
    kept: np.ndarray = (in_data <= kth[:, None] * (1 + 1e-12)).mean(axis=1)
    return kept


def _mean_estimate(values: np.ndarray, population: int | None) -> ConfidenceInterval:
    """Return the mean of a sample with its normal interval; `population` is None for an endless one."""
    mean = float(values.mean())
    if values.size == population:
        return ConfidenceInterval(mean, mean, mean)
    if values.size == 1:
        return ConfidenceInterval(mean, 0.0, 1.0)
    share_left = 1.0 if population is None else 1 - values.size / population
    half = Z95 * float(np.sqrt(values.var(ddof=1) * share_left / values.size))
    return ConfidenceInterval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _proportion_estimate(hits: np.ndarray, population: int) -> ConfidenceInterval:
    """Return the share of hits in a sample with Wilson's interval for a finite population."""
    p = float(hits.mean())
    if hits.size == population:
        return ConfidenceInterval(p, p, p)
    n = hits.size * (population - 1) / (population - hits.size)
    center = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * float(np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)))
    return ConfidenceInterval(p, min(p, max(0.0, center - half)), max(p, min(1.0, center + half)))


def _label_accuracy(
    codes: np.ndarray, queries: np.ndarray, neighbors: np.ndarray, placed: np.ndarray
) -> ConfidenceInterval | None:
    """Return the share of labelled queries that the majority of their neighbours labels rightly."""
    labelled = codes[queries] >= 0
    if not labelled.any():
        return None
    votes = codes[neighbors[labelled, :LABEL_NEIGHBORS]]
    same = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    same[votes < 0] = 0  # a missing label is no candidate
    winner = np.take_along_axis(votes, np.argmax(same, axis=1)[:, None], axis=1)[:, 0]
    return _proportion_estimate(winner == codes[queries[labelled]], int((codes[placed] >= 0).sum()))
