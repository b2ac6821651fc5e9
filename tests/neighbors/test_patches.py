"""Patches: every row in one, never more than the quota, small ones where other shards look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from nomad_dask.neighbors.graph import neighbor_weights, symmetric_graph
from nomad_dask.neighbors.patches import make_patches


def graph(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points on a plane, and the graph of their neighbours."""
    points = np.random.default_rng(seed).normal(size=(n, 2))
    ids = (
        cKDTree(points).query(points, k=k + 1)[1].reshape(n, -1)[:, 1:].astype(np.int32)
        if n > k
        else np.zeros((n, 0), np.int32)
    )
    edges = symmetric_graph(ids, neighbor_weights(ids, "log"))
    return points, edges.indptr, edges.indices, edges.weights


@given(
    n=st.integers(1, 80), k=st.integers(0, 6), quota=st.integers(1, 100), share=st.floats(0, 1), seed=st.integers(0, 20)
)
def test_every_row_has_a_patch_within_the_quota(n, k, quota, share, seed):
    _, indptr, indices, weights = graph(n, k, seed)
    rng = np.random.default_rng(seed)
    pulls = rng.random(n) * (rng.random(n) < share)
    patches = make_patches(pulls, indptr, indices, weights, quota)
    assert patches.shape == (n,)
    assert patches.dtype == np.int32
    assert patches.min() >= 0
    assert patches.max() < quota
    if n <= quota:
        assert len(np.unique(patches)) == n, "a patch for every row, where there are enough"


@pytest.mark.parametrize("n_seen", [50, 400, 2000])
def test_patches_lie_together_and_are_small_where_others_look(n_seen):
    points, indptr, indices, weights = graph(2000, 10)
    seen = np.zeros(2000, bool)
    seen[np.argsort(points[:, 0])[:n_seen]] = True
    patches = make_patches(seen.astype(float), indptr, indices, weights, 500)
    sizes = np.bincount(patches)
    assert sizes[patches[seen]].mean() <= max(1.0, 2.5 * n_seen / 468)
    if n_seen <= 400:
        assert (sizes[patches[seen]] == 1).all()
    means = np.stack([np.bincount(patches, points[:, a]) / np.maximum(sizes, 1) for a in (0, 1)], axis=1)
    within = np.linalg.norm(points - means[patches], axis=1)[seen].mean()
    assert within < 0.25


def test_rows_that_pull_least_are_grouped_first():
    n, quota = 1000, 700
    _, indptr, indices, weights = graph(n, 10)
    pulls = np.random.default_rng(1).random(n) + 0.01
    patches = make_patches(pulls, indptr, indices, weights, quota)
    sizes = np.bincount(patches)[patches]
    assert sizes.max() == 2, "groups no larger than it takes"
    ranked = sizes[np.argsort(pulls)]
    assert ranked[:300].mean() > 1.9
    assert ranked[-300:].mean() < 1.5
    assert np.unique(patches).size > 0.9 * quota, "and no more of them than it takes"


def test_more_rows_are_seen_than_groups_of_neighbours_can_hold():
    """In work that grows with the edges, not with rows times edges."""
    n = 30_000
    _, indptr, indices, weights = graph(n, 5)
    patches = make_patches(np.ones(n), indptr, indices, weights, 64)
    sizes = np.bincount(patches)
    assert len(sizes) <= 64
    assert sizes.max() < 3 * n / 64
