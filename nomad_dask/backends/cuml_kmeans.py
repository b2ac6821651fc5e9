"""K-Means by cuML on the GPUs of several Dask workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

PACKAGES = ("cuml", "dask_cudf", "raft_dask")
"""Packages that it needs, on the workers and here, where it also needs a GPU for the result."""
_MAX_ITER = 20
# cuML refuses others.
_N_SEEDS = 1 << 32


def fit_centroids(client: Any, parts: Sequence[tuple[Any, int]], n_dims: int, n_clusters: int, seed: int) -> np.ndarray:
    """Return the K-Means centroids (n_clusters, n_dims) float32 of rows in the memory of several workers.

    The centroids depend on the number of parts. Where a worker dies meanwhile, the others wait for it without end.

    Parameters
    ----------
    client : distributed.Client
    parts : sequence of (future, int)
        Arrays of float32 (rows, n_dims), one on each of several workers with GPUs of their own, and their rows.
    n_dims, n_clusters, seed : int
    """
    import dask.array as da
    from cuml.dask.cluster import KMeans

    arrays = [
        da.from_delayed(future, (n_rows, n_dims), np.float32)  # type: ignore[no-untyped-call]
        for future, n_rows in parts
    ]
    model = KMeans(
        client=client, n_clusters=n_clusters, init="scalable-k-means++", max_iter=_MAX_ITER,
        random_state=seed % _N_SEEDS,
    )  # fmt: skip
    model.fit(da.concatenate(arrays))  # type: ignore[no-untyped-call]
    centroids = np.asarray(model.cluster_centers_.get(), np.float32)  # from the GPU of this process
    if centroids.shape != (n_clusters, n_dims) or not np.isfinite(centroids).all():
        raise ArithmeticError(f"cuML returned centroids of shape {centroids.shape}, or with NaN or infinity")
    return centroids
