"""True neighbors of sampled rows, and what they say about the filter."""

from __future__ import annotations

import numpy as np

from nomad_dask.backends.cpu import cell_search_kernels as kernels
from nomad_dask.backends.cpu.filtered_rows import FilteredRows, scale_queries
from nomad_dask.backends.cpu.pca_filter import BLOCK_ROWS
from nomad_dask.utils.threads import Threads

_QUANTILE = 0.98
"""Fraction of true neighbors whose filter distance is within `reach`."""
_QUERY_CHUNK = 64


def brute_force(filtered: FilteredRows, rows: np.ndarray, k: int, pool: Threads) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows (m, k) int32 of sampled rows (m,) among all, and their squared distances.

    Every row is compared in the filter, whose distance is a lower bound; rows whose bound is below the k-th distance
    so far get their exact distance.
    """
    vectors = filtered.vectors
    queries = filtered.gather(rows)
    scaled, norms = scale_queries(filtered.gather_projected(rows), np.float32(1))
    distances = np.full((len(rows), k), np.inf, np.float32)
    ids = np.full((len(rows), k), -1, np.int32)

    def scan_block(start: int) -> None:
        block = vectors.read(start, min(start + BLOCK_ROWS, vectors.n_rows))
        if filtered.held is None or filtered.filter.axes is None:
            targets = filtered.filter.project(block)
        else:
            targets = filtered.held[start : start + len(block)]
        target_norms = np.einsum("ij,ij->i", targets, targets)

        def scan(a: int, b: int) -> None:
            bounds = scaled[a:b] @ targets.T
            bounds += target_norms
            bounds += norms[a:b, None]
            kernels.scan_exactly(queries[a:b], rows[a:b], bounds, block, start, norms[a:b], distances[a:b], ids[a:b])

        pool.run(scan, len(rows), _QUERY_CHUNK)

    for start in range(0, vectors.n_rows, BLOCK_ROWS):
        scan_block(start)
    return ids, distances


def fit_correlation(
    filtered: FilteredRows, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray
) -> tuple[np.float32, np.float32]:
    """Return how to compute filter distances, from the true neighbors (m, k) of sampled rows.

    Returns
    -------
    correlation : float32
        Mean cosine of the residuals of two neighbors, which the filter leaves out and which are not orthogonal.
    reach : float32
        Ratio of filter distance to true distance that nearly all neighbors stay below.
    """
    a = np.repeat(filtered.gather_projected(rows), ids.shape[1], axis=0).astype(np.float64)
    b = filtered.gather_projected(ids.ravel()).astype(np.float64)
    true = distances.ravel().astype(np.float64)
    within_axes = ((a[:, :-1] - b[:, :-1]) ** 2).sum(axis=1)
    lengths = a[:, -1] * b[:, -1]
    squares = a[:, -1] ** 2 + b[:, -1] ** 2
    products = (squares - (true - within_axes)) / 2
    total = lengths.sum()
    correlation = np.float32(np.clip(products.sum() / total, 0, 1) if total > 0 else 1)
    approximate = within_axes + squares - 2 * float(correlation) * lengths
    ratios = approximate / np.maximum(true, 1e-30)
    return correlation, np.float32(np.clip(np.quantile(ratios, _QUANTILE, method="higher"), 1, 1e30))


def filter_ranks(filtered: FilteredRows, rows: np.ndarray, ids: np.ndarray, correlation: np.float32) -> np.ndarray:
    """Return for each true neighbor (m, k) of sampled rows how many rows the filter ranks before it."""
    scaled, _ = scale_queries(filtered.gather_projected(rows), correlation)
    neighbors = filtered.gather_projected(ids.ravel()).reshape(*ids.shape, -1)
    limits = np.einsum("ij,ikj->ik", scaled, neighbors) + np.einsum("ikj,ikj->ik", neighbors, neighbors)
    order = np.argsort(limits, axis=1)
    ascending = np.take_along_axis(limits, order, axis=1)
    counts = np.zeros((len(rows), ids.shape[1] + 1), np.int64)
    for start in range(0, filtered.vectors.n_rows, BLOCK_ROWS):
        targets = filtered.project(start, min(start + BLOCK_ROWS, filtered.vectors.n_rows))
        values = scaled @ targets.T
        values += np.einsum("ij,ij->i", targets, targets)
        kernels.count_below(values, ascending, counts)
    ranks = np.empty(ids.shape, np.int64)
    np.put_along_axis(ranks, order, np.cumsum(counts[:, :-1], axis=1), axis=1)
    return np.maximum(ranks - 1, 0)  # the row itself is always the nearest
