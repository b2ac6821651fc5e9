"""Measurements on vectors: neighbors compared with cuVS, whole maps, and cuML's UMAP on the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_card import Card, matrix_rate, waited
from benchmarks.gpu_data import MixtureSource
from nomad_dask.backends.data import CellTree
from nomad_dask.backends.gpu.backend import GpuBackend
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.callbacks import EpochDone, Event, ShardPlaced, StageFinished
from nomad_dask.metrics.scores import score
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.params import Params
from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
from nomad_dask.pipeline.run import project
from nomad_dask.planning.planner import make_plan

N_NEIGHBORS = 15
TARGET_RECALL = 0.95
_BLOCK_ROWS = 1 << 20
_ASKED_ROWS = 300  # whose true neighbors determine the recall of all methods
_CANDIDATES = N_NEIGHBORS + 8
# Up to this many rows all distances are taken, by our own search and by brute_force.
_EXHAUSTIVE_ROWS = 1_000_000
_HOST_BYTES = 8 << 30
_QUERIES = 1000

Tell = Callable[[dict[str, Any]], None]


# --- neighbors


def neighbors(card: Card, n: int, scratch: Path, tell: Tell, matrix: int = 8192) -> None:
    """Measure the search for 15 neighbors of `n` rows, and report after every method."""
    rate = matrix_rate(card, "float16", matrix)
    source = MixtureSource(n)
    record: dict[str, Any] = {"rows": n, "dims": source.n_dims, "float16_flop_s": rate, "methods": {}}

    def add(name: str, seconds: float, distances: int | None, ids: Any) -> None:
        figures: dict[str, Any] = {
            "seconds": seconds,
            "rows_s": n / seconds,
            "recall": recall_of(card, rows, ids, true),
        }
        if distances is not None:
            figures |= {"distances_s": distances / seconds}
            figures |= {"share_of_float16": 2 * source.n_dims * distances / seconds / rate}
        record["methods"][name] = figures
        tell(record)

    backend = GpuBackend(card.runtime)
    vectors, offsets, cells, seconds = _sorted_by_cell(card, backend, source, scratch)
    record["cells_s"], record["n_cells"] = seconds, len(cells.centroids)
    rows = card.runtime.upload(vectors.read(0, n))
    true = _true_distances(card, rows)

    def search(n_probes: int | None) -> Any:
        primitives = backend.create_search(vectors, offsets, cells.centroids, 0, _HOST_BYTES, n)
        how = {"n_probes": n_probes, "target_recall": TARGET_RECALL}
        return find_neighbors(primitives, N_NEIGHBORS, **how, seed=0, on_progress=lambda done: None), primitives

    (found, primitives), seconds = waited(card, lambda: search(None))
    record["n_probes"], record["recall_told"] = found.n_probes, found.recall
    add("nomad_dask", seconds, int(n * found.n_probes * primitives.mean_probed_rows), found.ids)
    del found, primitives
    if n <= _EXHAUSTIVE_ROWS:
        (found, primitives), seconds = waited(card, lambda: search(len(cells.centroids)))
        add("nomad_dask, all distances", seconds, n * n, found.ids)
        del found, primitives
    for name, distances, work in _of_cuvs(rows):
        if distances is not None and n > _EXHAUSTIVE_ROWS:
            continue
        backend.close()
        try:
            ids, seconds = waited(card, work)
        except (RuntimeError, MemoryError) as error:  # what cuVS and RMM raise
            record["methods"][name] = {"failed": str(error).strip().split("\n")[0]}
            tell(record)
            continue
        add(name, seconds, distances, _without_themselves(card.runtime.download(ids)))
        del ids
    if not _has_cuvs():
        record["cuvs"] = "cuVS is not installed"
    tell(record)


def _sorted_by_cell(
    card: Card, backend: GpuBackend, source: MixtureSource, scratch: Path
) -> tuple[ShardVectors, np.ndarray, CellTree, float]:
    """Write the rows in the order of their cells; return the open file, cell offsets, cells and seconds."""
    n = source.n_rows
    n_cells = make_plan(source, Params(), 1, _HOST_BYTES).n_cells
    picked = np.sort(np.random.default_rng(0).choice(n, min(n, 64 * n_cells, 1_000_000), replace=False))
    ranges = source.blocks(_BLOCK_ROWS)
    edges = np.searchsorted(picked, [a for a, _ in ranges] + [n])

    def make() -> tuple[CellTree, np.ndarray]:
        parts = [
            backend.gather_to_host(source.read_device(a, b), picked[edges[i] : edges[i + 1]] - a)
            for i, (a, b) in enumerate(ranges)
        ]
        cells = backend.fit_cells(np.concatenate(parts), n_cells, 0)
        return cells, np.concatenate([backend.assign(source.read_device(a, b), cells) for a, b in ranges])

    (cells, labels), seconds = waited(card, make)
    order = np.argsort(labels, kind="stable")
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    path = scratch / "rows.npy"
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, source.n_dims))
    for a, b in ranges:
        out[place[a:b]] = source.read(a, b)
    out.flush()
    del out
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    return ShardVectors([(path, 0, n)], cache_bytes=_HOST_BYTES), offsets, cells, seconds


def _asked(n: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, _ASKED_ROWS)).astype(np.int64)


def _true_distances(card: Card, rows: Any) -> np.ndarray:
    """Return the distance (m,) float64 of the 15th neighbor of some rows, by comparing them with all rows."""
    xp, runtime = card.runtime.xp, card.runtime
    asked = _asked(len(rows))
    k = min(N_NEIGHBORS, len(rows) - 1)
    queries = rows[runtime.upload(asked)].astype(np.float64)
    least = xp.full((len(asked), k + 1), np.inf, np.float64)
    step = 1 << 17
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        gaps = (queries**2).sum(axis=1)[:, None] - 2 * (queries @ block.T) + (block**2).sum(axis=1)
        least = xp.sort(xp.concatenate([least, gaps], axis=1), axis=1)[:, : k + 1]
    return runtime.download(xp.sqrt(xp.maximum(least[:, k], 0)))


def recall_of(card: Card, rows: Any, ids: np.ndarray, true: np.ndarray) -> float:
    """Return the share of the neighbors of some rows that are as near as the true ones; -1 means not found."""
    runtime = card.runtime
    asked = _asked(len(rows))
    found = ids[asked][:, :N_NEIGHBORS]
    queries = rows[runtime.upload(asked)].astype(np.float64)
    others = rows[runtime.upload(np.maximum(found, 0).astype(np.int64))].astype(np.float64)
    apart = runtime.download(((others - queries[:, None, :]) ** 2).sum(axis=2)) ** 0.5
    return float(((apart <= true[:, None] * (1 + 1e-6)) & (found >= 0)).mean())


def _without_themselves(ids: np.ndarray) -> np.ndarray:
    """Remove each row from its own list (n, k + 1), or else the last entry."""
    own = ids == np.arange(len(ids))[:, None]
    own[~own.any(axis=1), -1] = True
    return np.asarray(ids[~own].reshape(len(ids), -1))


def _has_cuvs() -> bool:
    try:
        import cuvs.neighbors  # noqa: F401
    except ImportError:
        return False
    return True


def _of_cuvs(rows: Any) -> Iterator[tuple[str, int | None, Callable[[], Any]]]:
    """Yield the methods of cuVS: name, number of distances if known, and a function that returns ids (n, 16)."""
    if not _has_cuvs():
        return
    from cuvs.neighbors import all_neighbors, brute_force

    def by_all() -> Any:
        index = brute_force.build(rows, metric="sqeuclidean")
        return brute_force.search(index, rows, N_NEIGHBORS + 1)[1]

    yield "cuVS brute_force", len(rows) ** 2, by_all
    for algo in ("nn_descent", "ivf_pq"):
        params = all_neighbors.AllNeighborsParams(algo=algo, metric="sqeuclidean")

        def by_graph(params: Any = params) -> Any:
            # A list of k + 1 with distances has the row itself; without distances only indices come back.
            return all_neighbors.build(rows, N_NEIGHBORS + 1, params)

        yield f"cuVS all_neighbors {algo}", None, by_graph


# --- whole maps


def whole_map(n: int, scratch: Path, tell: Tell, client: Any = None, **settings: Any) -> None:
    """Make and score a map of `n` rows; report when it is made, and again when it is scored.

    Parameters
    ----------
    n : int
    scratch : Path
        Where the workspace goes.
    tell : callable
    client : distributed.Client, optional
        Cluster to run on; None starts workers on the GPUs of this machine.
    **settings
        Of `Params`.
    """
    source = MixtureSource(n)
    stages: dict[str, float] = {}
    epochs: list[tuple[int, float]] = []
    devices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageFinished):
            stages[event.stage] = event.seconds
        elif isinstance(event, EpochDone):
            epochs.append((event.epoch, time.monotonic()))
        elif isinstance(event, ShardPlaced):
            devices.append(event.device)

    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        result = project(
            source,
            Params(**settings),
            cluster=ClusterOptions(client, device="gpu"),
            workspace=WorkspaceOptions(Path(folder) / "work"),
            emit=listen,
        )
    record = {
        "rows": n,
        "dims": source.n_dims,
        "seconds": time.monotonic() - began,
        "stages": stages,
        "epoch_s": (epochs[-1][1] - epochs[0][1]) / max(1, epochs[-1][0] - epochs[0][0]),
        "devices": devices,
        "diagnostics": {k: v for k, v in result.diagnostics.items() if isinstance(v, (int, float, str))},
    }
    tell(record)
    tell(record | _scores(source, result.positions))


def umap(n: int, tell: Tell) -> None:
    """Make and score a map of the same rows with cuML's UMAP and its defaults; the rows are already on the GPU."""
    from cuml.manifold import UMAP

    source = MixtureSource(n)
    rows = source.read_device(0, n)
    began = time.monotonic()
    model = UMAP(n_neighbors=N_NEIGHBORS, output_type="numpy")
    positions = model.fit_transform(rows)
    record = {"rows": n, "dims": source.n_dims, "seconds": time.monotonic() - began}
    del rows
    tell(record)
    tell(record | _scores(source, positions))


def _scores(source: MixtureSource, positions: np.ndarray) -> dict[str, Any]:
    made = score(source, positions, n_queries=_QUERIES).as_dict()
    return {
        "scores": {f"NP@{k}": value for k, value in made["neighbors"].items()} | {"RTA": made["triplets"]},
        "n_queries": made["n_queries"],
    }
