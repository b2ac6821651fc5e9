"""Computations that are repeated with the same seed, to compare their bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import StepParams
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.params import Params
from tests.helpers.gpu_card import grown, near_graph, remote_of

Arrays = tuple[np.ndarray, ...]


def repeated_axes(backend: Backend, x: np.ndarray, times: int) -> list[Arrays]:
    made = [backend.fit_axes(x, 20, 0) for _ in range(times)]
    return [(axes.components, axes.mean, np.array(axes.std)) for axes in made]


def repeated_cells(backend: Backend, x: np.ndarray, n_cells: int, times: int) -> list[Arrays]:
    made = [backend.fit_cells(x, n_cells, 0) for _ in range(times)]
    return [(cells.centroids, cells.parents, cells.offsets, backend.assign(x, cells)) for cells in made]


def repeated_neighbors(backend: Backend, x: np.ndarray, n_cells: int, folder: Path, times: int) -> list[Arrays]:
    cells = backend.fit_cells(x, n_cells, 0)
    labels = backend.assign(x, cells)
    np.save(folder / "rows.npy", x[np.argsort(labels, kind="stable")])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=len(cells.centroids)))])
    results = []
    for _ in range(times):
        vectors = ShardVectors([(folder / "rows.npy", 0, len(x))], cache_bytes=1 << 30)
        primitives = backend.create_search(vectors, offsets, cells.centroids, 0, 1 << 30, len(x))
        found = find_neighbors(
            primitives, 15, n_probes=None, target_recall=0.95, seed=0, on_progress=lambda done: None
        )  # fmt: skip
        results.append((found.ids, found.distances, np.array(found.recall)))
    return results


def repeated_epochs(
    backend: Backend, n: int, dim: int, normalization: str, repulsion: str, times: int
) -> list[Arrays]:  # fmt: skip
    """With enough epochs that captured launches are replayed and the mesh changes its shape."""
    graph, positions = near_graph(n, n_far=200), grown(n, dim) / 3
    params = Params(n_components=dim, normalization=normalization, repulsion_method=repulsion, n_negatives=4)
    remotes = [remote_of(graph, dim, 200, 50.0, seed) for seed in range(4)]
    results = []
    for _ in range(times):
        one = backend.create_layout(graph, params, 2 * n)
        one.load(positions, np.zeros_like(positions))
        epochs = [
            one.run_epoch(StepParams(e, 0.5, 0.8, 5.0, 1.0, measure_loss=e % 5 == 0), remotes[e // 5])
            for e in range(20)
        ]
        losses = [outcome.loss or 0.0 for outcome in epochs]
        results.append(
            (*one.copy_state(), one.patch_moments(), np.array([t.partition_sum for t in epochs]), np.array(losses))
        )
    return results
