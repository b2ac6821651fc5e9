"""Assignment of cells to shards: complete, sizes balanced, few edges cut; and the neighbors in the sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from nomad_dask.partition.sample_neighbors import sample_neighbors
from nomad_dask.partition.shard_assignment import assign_cells


def make_cells(n_cells: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells on a plane, with edges between nearby ones."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(n_cells, 2))
    sizes = rng.integers(50, 150, size=n_cells)
    distances = ((centroids[:, None] - centroids) ** 2).sum(axis=2)
    edges = np.exp(-distances / 0.1)
    return centroids, sizes, np.asarray(edges, np.float32)


def cut(shards: np.ndarray, edges: np.ndarray) -> float:
    """Return the share of edge weight between shards."""
    return float(edges[shards[:, None] != shards].sum() / edges.sum())


@settings(max_examples=80)
@given(
    n_cells=st.integers(1, 60),
    n_shards=st.integers(1, 16),
    sizes=st.data(),
    seed=st.integers(0, 20),
    refine=st.booleans(),
)
def test_every_cell_has_one_shard_and_every_shard_a_cell(n_cells, n_shards, sizes, seed, refine):
    n_shards = min(n_shards, n_cells)
    rng = np.random.default_rng(seed)
    centroids = rng.integers(0, 4, size=(n_cells, 3)).astype(np.float32)  # some are equal
    counts = np.array(sizes.draw(st.lists(st.integers(0, 500), min_size=n_cells, max_size=n_cells)))
    edges = rng.integers(0, 5, size=(n_cells, n_cells)).astype(np.float32)
    shards = assign_cells(centroids, counts, edges + edges.T if refine else None, n_shards)
    assert shards.shape == (n_cells,)
    assert set(shards) == set(range(n_shards))


@pytest.mark.parametrize("n_shards", [2, 3, 4, 7, 16])
def test_sizes_are_balanced_and_few_edges_cut(n_shards):
    centroids, sizes, edges = make_cells(400)
    shards = assign_cells(centroids, sizes, edges, n_shards)
    rows = np.bincount(shards, sizes, n_shards)
    mean = sizes.sum() / n_shards
    assert rows.max() <= 1.1 * mean + sizes.max()
    assert rows.min() >= 0.8 * mean - sizes.max()
    random_shards = np.random.default_rng(0).integers(n_shards, size=400)
    assert cut(shards, edges) < 0.5 * cut(random_shards, edges)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), n_shards=st.integers(2, 8))
def test_moving_cells_never_cuts_more(seed, n_shards):
    centroids, sizes, edges = make_cells(60, seed)
    bisected = assign_cells(centroids, sizes, None, n_shards)
    refined = assign_cells(centroids, sizes, edges, n_shards)
    assert cut(refined, edges) <= cut(bisected, edges) + 1e-6
    bisected_rows, rows = np.bincount(bisected, sizes, n_shards), np.bincount(refined, sizes, n_shards)
    mean = sizes.sum() / n_shards
    assert (rows <= np.maximum(1.1 * mean, bisected_rows) + 1e-9).all()
    assert (rows >= np.minimum(0.8 * mean, bisected_rows) - 1e-9).all()


def test_cells_move_along_edges_and_not_by_distance():
    """Two distant cells that share all their edges end up together, as sizes allow."""
    centroids = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0], [9.0]])
    sizes = np.array([100] * 4 + [20, 20] + [100] * 4)
    edges = np.zeros((10, 10), np.float32)
    edges[4, 9] = edges[9, 4] = 10
    shards = assign_cells(centroids, sizes, edges, 2)
    assert shards[4] == shards[9]


def test_one_cell_with_nearly_all_rows():
    sizes = np.array([1, 1, 10_000, 1, 1])
    shards = assign_cells(np.arange(5.0)[:, None], sizes, np.ones((5, 5), np.float32), 3)
    assert set(shards) == {0, 1, 2}


@given(n=st.integers(2, 300), n_cells=st.integers(1, 24), k=st.integers(1, 20), seed=st.integers(0, 99))
def test_sample_neighbors_are_exact_when_all_cells_are_searched(n: int, n_cells: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 3)).astype(np.float32) + 50
    centroids = rows[rng.integers(n, size=n_cells)]
    labels = cdist(rows, centroids).argmin(axis=1).astype(np.int32)
    queries = np.arange(0, n, 3)
    neighbors = sample_neighbors(rows, labels, centroids, queries, k)
    distances = cdist(rows[queries].astype(np.float64), rows.astype(np.float64))
    distances[np.arange(len(queries)), queries] = np.inf
    expected = np.sort(distances, axis=1)[:, : min(k, n - 1)]
    np.testing.assert_allclose(np.sort(np.take_along_axis(distances, neighbors, axis=1), axis=1), expected, atol=1e-3)


def test_sample_neighbors_with_cells_of_very_unequal_sizes() -> None:
    """Most cells have one row, some none and one nearly all: enough rows are searched anyway."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(5000, 8)), 20 * rng.normal(size=(300, 8))]).astype(np.float32)
    centroids = np.concatenate([rows[:1], np.full((50, 8), 500, np.float32), rows[5000:]])
    labels = cdist(rows, centroids).argmin(axis=1).astype(np.int32)
    queries = np.arange(0, len(rows), 7)
    neighbors = sample_neighbors(rows, labels, centroids, queries, 15)
    distances = cdist(rows[queries], rows)
    distances[np.arange(len(queries)), queries] = np.inf
    true = np.argsort(distances, axis=1)[:, :15]
    n_found = [len(np.intersect1d(a, b)) for a, b in zip(neighbors, true, strict=True)]
    assert not (neighbors == queries[:, None]).any()
    assert np.mean(n_found) > 0.95 * 15
