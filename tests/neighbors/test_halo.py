"""Neighbors and edges across search batches and shards, against brute force over all rows in float64."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from nomad_dask.backends.rank_weights import rank_weights
from nomad_dask.neighbors.graph_files import graph_file
from nomad_dask.partition.shard_files import shard_file
from tests.helpers.nearest_level import nearest_level
from tests.helpers.runs import blobs, in_batches, make_map

N, K, SHARDS = 900, 6, 3
# All of these few cells are in every halo and are probed, so the search is exact.
SETTINGS: dict[str, Any] = {"n_neighbors": K, "n_shards": SHARDS, "n_cells": 9, "n_epochs": 1, "n_tail_neighbors": 0}


class Artifacts:
    """The graphs of all shards of a workspace, and the true graph of all rows in input order."""

    def __init__(self, workspace: Path, x: np.ndarray) -> None:
        self.rows = [np.load(workspace / shard_file(s, "rows")) for s in range(SHARDS)]
        self.shard_of = np.empty(N, int)
        for s, rows in enumerate(self.rows):
            self.shard_of[rows] = s
        self.folder = workspace
        distances = ((x[:, None].astype(np.float64) - x) ** 2).sum(axis=2)
        np.fill_diagonal(distances, np.inf)
        self.nearest = np.argsort(distances, axis=1)[:, :K].astype(np.int32)
        self.p = np.zeros((N, N))
        np.put_along_axis(self.p, self.nearest, rank_weights(K, "shifted-inverse")[None], axis=1)

    def load(self, shard: int, name: str) -> np.ndarray:
        return np.load(self.folder / graph_file(shard, name))


@pytest.fixture(scope="module", params=[1, 2], ids=["one batch a shard", "two batches a shard"])
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    x = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    workspace = tmp_path_factory.mktemp("halo") / "w"
    with in_batches(request.param):
        result = make_map(x, workspace=workspace, keep_stages=True, **SETTINGS)
    artifacts = Artifacts(workspace, x)
    inside = artifacts.shard_of[artifacts.nearest] == artifacts.shard_of[:, None]
    assert 0.1 < inside.mean() < 0.95, "some neighbors are in the same shard, some in others"
    assert result.diagnostics["foreign_share"] == pytest.approx(
        (artifacts.p * ~in_same_shard(artifacts)).sum() / N, abs=1e-4
    )
    return artifacts


def in_same_shard(artifacts: Artifacts) -> np.ndarray:
    return artifacts.shard_of[:, None] == artifacts.shard_of


def test_edges_inside_a_shard_are_p_and_its_transpose(artifacts):
    a = artifacts.p + artifacts.p.T
    for s, rows in enumerate(artifacts.rows):
        indptr, indices, levels = (artifacts.load(s, name) for name in ("indptr", "indices", "weights"))
        weights = levels[artifacts.load(s, "weight_codes")]
        actual = np.zeros((len(rows), len(rows)))
        for i, (begin, end) in enumerate(pairwise(indptr)):
            actual[i, indices[begin:end]] = weights[begin:end]
        np.testing.assert_allclose(actual, nearest_level(a[np.ix_(rows, rows)], levels), atol=1e-6)
        np.testing.assert_allclose(actual, a[np.ix_(rows, rows)], rtol=0.01)


def test_weights_of_patches_are_the_sums_over_their_rows(artifacts):
    a = (artifacts.p + artifacts.p.T) * ~in_same_shard(artifacts)
    patch_of_row = [artifacts.load(s, "patch_of_row") for s in range(SHARDS)]
    n_patches = len(artifacts.load(0, "patch_counts"))
    patch_of = np.empty(N, int)
    for s, rows in enumerate(artifacts.rows):
        patch_of[rows] = s * n_patches + patch_of_row[s]
    for s, rows in enumerate(artifacts.rows):
        indptr, patches, weights = (
            artifacts.load(s, name) for name in ("cross_indptr", "cross_patches", "cross_weights")
        )
        actual = np.zeros((len(rows), SHARDS * n_patches))
        for i, (begin, end) in enumerate(pairwise(indptr)):
            actual[i, patches[begin:end]] = weights[begin:end]
        expected = np.zeros_like(actual)
        np.add.at(expected.T, patch_of, a[rows].T)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_patch_counts_are_the_rows_of_the_patches(artifacts):
    for s, rows in enumerate(artifacts.rows):
        counts, patches = artifacts.load(s, "patch_counts"), artifacts.load(s, "patch_of_row")
        assert len(patches) == len(rows)
        np.testing.assert_array_equal(np.bincount(patches, minlength=len(counts)), counts)


def test_without_cross_shard_attraction_there_are_no_edges_between_shards(tmp_path):
    make_map(blobs(600), keep_stages=True, workspace=tmp_path / "w", cross_shard_attraction=False, **SETTINGS)
    for s in range(SHARDS):
        assert len(np.load(tmp_path / "w" / graph_file(s, "cross_patches"))) == 0


def test_rounds_find_neighbors_in_other_batches_and_shards(tmp_path):
    """Few cells are probed; rounds then find neighbors of neighbors in other batches, of the same shard or not."""
    n, k, shards = 15_000, 10, range(2)
    x = np.random.default_rng(1).normal(size=(n, 40)).astype(np.float32)
    workspace = tmp_path / "w"
    with in_batches(2):
        result = make_map(
            x, n_neighbors=k, target_recall=0.8, n_shards=2, n_epochs=1, workspace=workspace, keep_stages=True
        )
    assert result.diagnostics["rounds"] > 0
    rows = [np.load(workspace / shard_file(s, "rows")) for s in shards]
    owner = np.empty(n, int)
    pairs = []  # i * n + j of rows i and j
    for s in shards:
        owner[rows[s]] = s
        indptr, indices = (np.load(workspace / graph_file(s, name)) for name in ("indptr", "indices"))
        pairs.append(np.repeat(rows[s], np.diff(indptr)) * n + rows[s][indices])
        sources, targets, offsets = (
            np.load(workspace / graph_file(s, name)) for name in ("out_from", "out_to", "out_edges")
        )
        target_rows = np.concatenate([rows[t][targets[offsets[t] : offsets[t + 1]]] for t in shards])
        pairs.append(rows[s][sources] * n + target_rows)
    queries = np.random.default_rng(2).choice(n, 1000, replace=False)
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x.astype(np.float64))
    true = search.kneighbors(x[queries].astype(np.float64), return_distance=False)[:, 1:]
    is_found = np.isin(queries[:, None] * n + true, np.concatenate(pairs))
    is_outside = owner[true] != owner[queries][:, None]
    assert 0.2 < is_outside.mean() < 0.95
    assert is_found[is_outside].mean() > 0.75
    # An edge within a shard may come from the list of either row, so a few more are found than in one list.
    assert is_found.mean() > result.diagnostics["recall"] - 0.02 > 0.75
