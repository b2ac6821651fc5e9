"""Label accuracy: how often a row has the most frequent label among its nearest neighbors in the map."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.metrics.confidence import ConfidenceInterval, proportion_interval
from nomad_dask.utils.array_types import library_of

LABEL_NEIGHBORS = 10


def label_codes(labels: Any, n_rows: int, queries: np.ndarray) -> np.ndarray:
    """Return an int64 code for each label, -1 where it is missing.

    Parameters
    ----------
    labels : array-like (n_rows,)
        Of NumPy, Arrow, pandas or cuDF.
    n_rows : int
    queries : ndarray of int64 (n_queries,)
        Row numbers; at least one of these rows must have a label.

    Raises
    ------
    InputError
        The labels are of mixed types, their number is not `n_rows`, or none of the queries has a label.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    library = library_of(labels)
    if library in ("cupy", "cudf"):
        labels = labels.get() if library == "cupy" else labels.to_arrow()
    try:
        arrow = labels if isinstance(labels, pa.Array | pa.ChunkedArray) else pa.array(labels, from_pandas=True)
        if pa.types.is_dictionary(arrow.type):
            # A dictionary may have a value twice, or null.
            arrow = arrow.cast(arrow.type.value_type)
        if pa.types.is_floating(arrow.type):
            arrow = pc.if_else(pc.is_nan(arrow), None, arrow)
        encoded = pc.dictionary_encode(arrow)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
    except (pa.ArrowException, TypeError, ValueError, LookupError) as error:
        raise InputError(f"labels cannot be read ({error}): give strings or numbers of one kind.") from error
    if len(encoded) != n_rows:
        raise InputError(f"{len(encoded):,} labels for {n_rows:,} rows: give one label for each row.")
    codes: np.ndarray = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if not (codes[queries] >= 0).any():
        missing = (
            "All labels are missing" if (codes < 0).all() else f"None of {queries.size:,} sampled rows has a label"
        )
        raise InputError(f"{missing}: give labels of more rows, or none, or sample more rows (--queries, n_queries=).")
    return codes


def label_accuracy(codes: np.ndarray, queries: np.ndarray, neighbors: np.ndarray) -> ConfidenceInterval:
    """Return the share of labeled queries whose label is the most frequent among their neighbors.

    Parameters
    ----------
    codes : ndarray of int64 (n_rows,)
        From `label_codes`.
    queries : ndarray of int64 (n_queries,)
        Row numbers.
    neighbors : ndarray of int64 (n_queries, k)
        Row numbers of their nearest neighbors in the map, in order of distance.
    """
    labeled = codes[queries] >= 0
    votes = codes[neighbors[labeled, :LABEL_NEIGHBORS]]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    counts[votes < 0] = 0  # a missing label cannot win
    winner = np.take_along_axis(votes, np.argmax(counts, axis=1)[:, None], axis=1)[:, 0]
    return proportion_interval(winner == codes[queries[labeled]], int((codes >= 0).sum()))
