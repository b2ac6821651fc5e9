"""K-Means with cuML."""

from __future__ import annotations

from typing import Any

_MAX_ITER = 20
# cuML refuses others.
_N_SEEDS = 1 << 32
# Memory that cuML may use for distances at a time.
_TILE_BYTES = 1 << 28


def fit_kmeans(sample: Any, n_clusters: int, seed: int) -> Any:
    """Return the K-Means centroids (n_clusters, d) of the rows of a CuPy array (n, d) float32.

    Implements `Runtime.kmeans` for a CUDA device. Clusters can be empty.
    """
    from cuml.cluster import KMeans

    model = KMeans(
        n_clusters=n_clusters,
        max_iter=_MAX_ITER,
        random_state=seed % _N_SEEDS,
        max_samples_per_batch=max(256, min(1 << 15, _TILE_BYTES // (4 * n_clusters))),
        output_type="cupy",
    )
    return model.fit(sample).cluster_centers_
