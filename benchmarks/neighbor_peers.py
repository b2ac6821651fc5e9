"""Find the neighbors of all rows of a file with one method, and write ids and cost; `neighbors.py` runs it.

    python neighbor_peers.py METHOD VECTORS.npy DIRECTORY SEED '{"setting": 1}'

Imports, reading the file, and a first search of a few thousand rows are not part of the cost. Peak memory is that of
the process.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

K = 15
WARM_ROWS = 4000
CELL_SIZE, MAX_AXES, ROWS_PER_CELL = 250, 64, 64  # as `planning` decides for a run


def nomad_dask(X: np.ndarray, seed: int, target_recall: float) -> np.ndarray:
    """Search like a run with one shard, from the sample and its cells on."""
    from threadpoolctl import threadpool_limits

    from nomad_dask.backends.cpu.backend import CpuBackend
    from nomad_dask.backends.row_reader import ShardVectors
    from nomad_dask.neighbors.search import find_neighbors

    n, d = X.shape
    backend = CpuBackend(len(os.sched_getaffinity(0)))
    with threadpool_limits(1, user_api="blas"), tempfile.TemporaryDirectory() as folder:
        n_cells = max(2, n // CELL_SIZE)
        size = min(n, max(20_000, n_cells * ROWS_PER_CELL))
        sample = X[np.sort(np.random.default_rng(seed).choice(n, size, replace=False))]
        axes = backend.fit_axes(sample[:: max(1, size // 10_000)], min(d, MAX_AXES), seed)
        cells = backend.fit_cells(backend.project(sample, axes), n_cells, seed)
        labels = backend.assign(backend.project(X, axes), cells)
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(cells.centroids))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        file = Path(folder) / "rows.npy"
        rows = X[order]
        np.save(file, rows)
        centroids = np.zeros((len(counts), d), np.float32)
        filled = np.flatnonzero(counts)
        centroids[filled] = np.add.reduceat(rows, offsets[filled], axis=0) / counts[filled, None]
        del rows
        vectors = ShardVectors([(file, 0, n)], cache_bytes=1 << 30)
        primitives = backend.create_search(vectors, offsets, centroids, seed, 2 << 30, n)
        found = find_neighbors(
            primitives, K, n_probes=None, target_recall=target_recall, seed=seed, on_progress=lambda done: None
        )
    ids = np.empty((n, found.ids.shape[1]), np.int64)
    ids[order] = order[found.ids]
    backend.close()
    return ids


def pynndescent(X: np.ndarray, seed: int, n_neighbors: int = K + 1, n_iters: int | None = None) -> np.ndarray:
    from pynndescent import NNDescent

    return NNDescent(X, n_neighbors=n_neighbors, n_iters=n_iters, random_state=seed).neighbor_graph[0]


def faiss_ivf(X: np.ndarray, seed: int, nprobe: int) -> np.ndarray:
    import faiss

    n_lists = int(4 * np.sqrt(len(X)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(X.shape[1]), X.shape[1], n_lists)
    index.cp.seed = seed
    index.train(X)
    index.add(X)
    index.nprobe = nprobe
    return index.search(X, K + 1)[1]


def faiss_nndescent(X: np.ndarray, seed: int, n_iter: int) -> np.ndarray:
    import faiss

    index = faiss.IndexNNDescentFlat(X.shape[1], K + 1)
    index.nndescent.iter = n_iter
    index.nndescent.random_seed = seed
    index.add(X)
    return faiss.vector_to_array(index.nndescent.final_graph).reshape(len(X), -1)


def faiss_hnsw(X: np.ndarray, seed: int, efSearch: int) -> np.ndarray:
    import faiss

    index = faiss.IndexHNSWFlat(X.shape[1], 16)
    index.add(X)
    index.hnsw.efSearch = efSearch
    return index.search(X, K + 1)[1]


def sklearn_brute(X: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=-1).fit(X).kneighbors(return_distance=False)


METHODS = {
    "nomad_dask": nomad_dask,
    "pynndescent": pynndescent,
    "faiss-ivf": faiss_ivf,
    "faiss-nndescent": faiss_nndescent,
    "faiss-hnsw": faiss_hnsw,
    "sklearn-brute": sklearn_brute,
}


def peak_bytes() -> int:
    """Return the peak memory of this process; `getrusage` would count that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    method, vectors, folder, seed, settings = sys.argv[1:]
    X = np.load(vectors)
    search, options = METHODS[method], json.loads(settings)
    search(X[:WARM_ROWS].copy(), int(seed), **options)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    ids = search(X, int(seed), **options)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3),
        "wall_s": round(time.monotonic() - began, 3),
        "peak_gb": round(peak_bytes() / 1e9, 3),
    }
    np.save(Path(folder) / "ids.npy", ids)
    (Path(folder) / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
