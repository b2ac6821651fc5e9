"""Cost of the kernels by the number of rows: ns per point for deposit, field, attraction; ns per row for neighbors.

    python -m benchmarks.kernels --rows 10000 100000 1000000

CPU seconds on one thread, the minimum of three runs, with cached compiled code. Points are as dense as in a finished
map, rows in the order of their cells; vectors are a mixture of Gaussians in 64 dimensions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.compare import machine, versions
from nomad_dask.backends.cpu.backend import CpuBackend
from nomad_dask.backends.cpu.charge_deposit import deposit_points
from nomad_dask.backends.cpu.field import Field
from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.data import RemoteState, ShardGraph, StepParams
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.backends.weight_codes import encode_weights, weight_levels
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.params import Params
from nomad_dask.utils.threads import thread_pool

RESULTS = Path(__file__).parent / "results"
NONE = np.empty(0, np.float32)
NO_POINTS = np.empty((0, 2), np.float32)


def least(work: Callable[[], Any], repeats: int = 3) -> float:
    """Return the minimum CPU seconds of a few runs, after one that is not measured."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def field(n: int) -> dict[str, float]:
    """Measure the three steps of the field at the density of a map of Fashion-MNIST, two points per unit of area."""
    rng = np.random.default_rng(0)
    side = np.sqrt(n / 2)
    points = (rng.random((n, 2)) * side).astype(np.float32)
    points = points[np.lexsort((points[:, 0] // 8, points[:, 1] // 8))]
    potential, gradient = np.empty(n, np.float32), np.empty((n, 2), np.float32)
    with thread_pool(1) as pool:
        mesher = Field(2, 0.7, 1 << 26, pool)
        mesh = mesher.cover(points, NO_POINTS)
        coefficients = mesher.solve(mesh, points, NONE, NO_POINTS, NONE)
        solve = least(lambda: mesher.solve(mesh, points, NONE, NO_POINTS, NONE))
        deposit = least(lambda: deposit_points(mesh, points, NONE, pool))
        gather = least(lambda: mesher.read(mesh, coefficients, points, potential, gradient))
    return {"deposit": deposit, "transform": solve - deposit, "gather": gather}


def epoch(n: int) -> dict[str, float]:
    """Measure a whole epoch on a graph of about 30 edges per row that are close in the order of rows."""
    rng = np.random.default_rng(0)
    ids = np.clip(np.arange(n)[:, None] + rng.integers(-200, 201, (n, 15)), 0, n - 1).astype(np.int32)
    ids.sort(axis=1)
    ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = -1  # a row is a neighbor once
    ids[ids == np.arange(n)[:, None]] = -1
    lists = weigh_by_rank(ids.view(np.uint32), "log")
    edges, levels = symmetric_graph(lists), weight_levels(lists)
    graph = ShardGraph(
        np.array([0, n]), np.zeros(n, np.int32), np.array([n]), 0, np.array([[0]]), edges.indptr, edges.indices,
        levels, encode_weights(edges.weights, levels), None, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), NONE,
    )  # fmt: skip
    remote = RemoteState(np.zeros((1, 3), np.float32), np.array([n], np.float32), NO_POINTS, NONE, 0.0, 1.0)
    points = (rng.random((n, 2)) * np.sqrt(n / 2)).astype(np.float32)
    points = points[np.lexsort((points[:, 0] // 8, points[:, 1] // 8))]
    backend = CpuBackend(1)
    layout = backend.create_layout(graph, Params(), n)
    layout.load(points, np.zeros_like(points))
    seconds = least(lambda: layout.run_epoch(StepParams(1, 1e-3, 0.0, 5.0, 1.0), remote))
    backend.close()
    return {"epoch": seconds, "edges": len(edges.indices) / n}


def neighbors(n: int) -> dict[str, float]:
    """Measure the search for 15 neighbors at the default recall, with given cells."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, 64)) * 2
    rows = (centers[rng.integers(100, size=n)] + rng.normal(size=(n, 64)) @ (rng.normal(size=(64, 64)) / 8)).astype(
        np.float32
    )
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        backend = CpuBackend(1)
        cells = backend.fit_cells(rows[: min(n, 64 * (n // 250 + 1))], max(1, n // 250), 0)
        labels = backend.assign(rows, cells)
        order = np.argsort(labels, kind="stable")
        path = Path(folder) / "rows.npy"
        np.save(path, rows[order])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
        vectors = ShardVectors([(path, 0, n)], cache_bytes=1 << 30)

        def search() -> Any:
            primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 30, n)
            return find_neighbors(
                primitives, 15, n_probes=None, target_recall=0.95, seed=0, on_progress=lambda done: None
            )

        found = search()
        seconds = least(search, repeats=1)
        backend.close()
    return {"neighbors": seconds, "recall": found.recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = []
    for n in args.rows:
        measured = field(n) | epoch(n) | neighbors(n)
        row = {"rows": n} | {
            name: round(value if name in ("recall", "edges") else value / n * 1e9, 3)
            for name, value in measured.items()
        }
        results.append(row)
        print(row, flush=True)
    today, about, used = date.today().isoformat(), machine(), versions([], sys.executable)
    written = {"date": today, "machine": about, "versions": used, "ns_a_row": results}
    place = args.out / f"kernels-{today}"
    place.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n")
    names = list(results[0])
    lines = [
        "# Kernels: CPU ns a row, one thread\n",
        f"{today}. {about['cpu']}, {about['cores']} cores.\n",
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(f"{r[name]:,}" for name in names) + " |" for r in results),
        "\nVersions: " + ", ".join(f"{k} {v}" for k, v in used.items()) + ".",
    ]
    place.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
