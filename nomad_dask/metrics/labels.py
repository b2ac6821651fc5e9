"""Label accuracy: how often a row has the most frequent label among its nearest neighbors in the map."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.metrics.confidence import ConfidenceInterval, proportion_interval
from nomad_dask.utils.array_types import library_of

LABEL_NEIGHBORS = 10


def label_codes(labels: Any, n_rows: int) -> np.ndarray:
    """Return an int64 code for each label, -1 where it is missing.

    Raises
    ------
    InputError
        The labels are of mixed types, or their number is not `n_rows`.
    """
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


def label_accuracy(
    codes: np.ndarray, queries: np.ndarray, neighbors: np.ndarray, mapped: np.ndarray
) -> ConfidenceInterval | None:
    """Return the share of labeled queries whose label is the most frequent among their neighbors.

    Parameters
    ----------
    codes : ndarray of int64 (n_rows,)
        From `label_codes`.
    queries : ndarray of int64 (n_queries,)
        Row numbers.
    neighbors : ndarray of int64 (n_queries, k)
        Row numbers of their nearest neighbors in the map, in order of distance.
    mapped : ndarray of int64
        Row numbers of all rows with positions.
    """
    labeled = codes[queries] >= 0
    if not labeled.any():
        return None
    votes = codes[neighbors[labeled, :LABEL_NEIGHBORS]]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    counts[votes < 0] = 0  # a missing label cannot win
    winner = np.take_along_axis(votes, np.argmax(counts, axis=1)[:, None], axis=1)[:, 0]
    return proportion_interval(winner == codes[queries[labeled]], int((codes[mapped] >= 0).sum()))
