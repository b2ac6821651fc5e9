"""Patches: every row is in one, there are at most as many as allowed, and linked rows have small ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from nomad_dask.backends.cpu.symmetric_graph import symmetric_graph
from nomad_dask.backends.rank_weights import weigh_by_rank
from nomad_dask.neighbors.patches import make_patches


def graph(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points on a plane, and their neighbor graph."""
    points = np.random.default_rng(seed).normal(size=(n, 2))
    ids = (
        cKDTree(points).query(points, k=k + 1)[1].reshape(n, -1)[:, 1:].astype(np.int32)
        if n > k
        else np.zeros((n, 0), np.int32)
    )
    edges = symmetric_graph(weigh_by_rank(ids.view(np.uint32), "log"))
    return points, edges.indptr, edges.indices, edges.weights


@given(
    n=st.integers(1, 80),
    k=st.integers(0, 6),
    max_patches=st.integers(1, 100),
    share=st.floats(0, 1),
    seed=st.integers(0, 20),
)
def test_every_row_has_a_patch_below_the_maximum(n, k, max_patches, share, seed):
    _, indptr, indices, weights = graph(n, k, seed)
    rng = np.random.default_rng(seed)
    cross_weights = rng.random(n) * (rng.random(n) < share)
    patches = make_patches(cross_weights, indptr, indices, weights, max_patches)
    assert patches.shape == (n,)
    assert patches.dtype == np.int32
    assert patches.min() >= 0
    assert patches.max() < max_patches
    if n <= max_patches:
        assert len(np.unique(patches)) == n, "one patch per row, if there are enough"


@pytest.mark.parametrize("n_linked", [50, 400, 2000])
def test_patches_are_compact_and_those_of_linked_rows_small(n_linked):
    points, indptr, indices, weights = graph(2000, 10)
    is_linked = np.zeros(2000, bool)
    is_linked[np.argsort(points[:, 0])[:n_linked]] = True
    patches = make_patches(is_linked.astype(float), indptr, indices, weights, 500)
    sizes = np.bincount(patches)
    assert sizes[patches[is_linked]].mean() <= max(1.0, 2.5 * n_linked / 468)
    if n_linked <= 400:
        assert (sizes[patches[is_linked]] == 1).all()
    means = np.stack([np.bincount(patches, points[:, a]) / np.maximum(sizes, 1) for a in (0, 1)], axis=1)
    spread = np.linalg.norm(points - means[patches], axis=1)[is_linked].mean()
    assert spread < 0.25


def test_rows_with_small_cross_weights_are_grouped_first():
    n, max_patches = 1000, 700
    _, indptr, indices, weights = graph(n, 10)
    cross_weights = np.random.default_rng(1).random(n) + 0.01
    patches = make_patches(cross_weights, indptr, indices, weights, max_patches)
    sizes = np.bincount(patches)[patches]
    assert sizes.max() == 2, "groups are as small as possible"
    ranked = sizes[np.argsort(cross_weights)]
    assert ranked[:300].mean() > 1.9
    assert ranked[-300:].mean() < 1.5
    assert np.unique(patches).size > 0.9 * max_patches, "nearly all patches are used"


def test_more_linked_rows_than_groups_of_neighbors_can_hold():
    """The time grows with the edges, not with rows times edges."""
    n = 30_000
    _, indptr, indices, weights = graph(n, 5)
    patches = make_patches(np.ones(n), indptr, indices, weights, 64)
    sizes = np.bincount(patches)
    assert len(sizes) <= 64
    assert sizes.max() < 3 * n / 64
