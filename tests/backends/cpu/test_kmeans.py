"""K-Means cells do not depend on the threads that compute them; rows get cells as brute force assigns them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nomad_dask.backends.cpu.kmeans import assign, fit_cells
from nomad_dask.backends.data import CellTree
from nomad_dask.backends.kmeans_tree import PARENTS_TRIED
from nomad_dask.utils.threads import thread_pool
from tests.backends.test_kmeans import rows as random_rows


@pytest.mark.parametrize("n_cells", [40, 1100])
def test_threads_and_repetition_change_nothing(n_cells):
    x = random_rows(9000, 5)
    made = []
    for n in (1, 4, 1):
        with thread_pool(n) as pool:
            cells = fit_cells(x, n_cells, 3, pool)
            made.append((cells, assign(x, cells, pool)))
    for cells, labels in made[1:]:
        np.testing.assert_array_equal(cells.centroids, made[0][0].centroids)
        np.testing.assert_array_equal(cells.parents, made[0][0].parents)
        np.testing.assert_array_equal(labels, made[0][1])


def test_rows_get_the_nearest_child_of_their_three_nearest_parents():
    rng = np.random.default_rng(0)
    parents = rng.normal(size=(40, 6))
    sizes = rng.integers(1, 60, 40)
    centroids = np.repeat(parents, sizes, axis=0) + 0.6 * rng.normal(size=(sizes.sum(), 6))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tree = CellTree(centroids.astype(np.float32), parents.astype(np.float32), offsets)
    rows = (rng.normal(size=(20_000, 6)) * 1.3).astype(np.float32)  # more than one chunk
    to_parents = ((rows[:, None].astype(np.float64) - tree.parents) ** 2).sum(axis=2)
    is_child = np.repeat(np.argsort(np.argsort(to_parents, axis=1), axis=1) < PARENTS_TRIED, sizes, axis=1)
    to_children = cdist(rows, tree.centroids, "sqeuclidean")
    with thread_pool(2) as pool:
        labels = assign(rows, tree, pool)
    chosen = to_children[np.arange(len(rows)), labels]
    np.testing.assert_allclose(chosen, np.where(is_child, to_children, np.inf).min(axis=1), rtol=1e-4, atol=1e-5)
