"""Neighbours and pulls across shards, against brute force over all rows in float64."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from nomad_dask.neighbors.graph import neighbor_weights
from nomad_dask.neighbors.halo import nearest_cells
from nomad_dask.neighbors.stage import graph_file
from nomad_dask.partition.shard_files import shard_file
from tests.helpers.runs import blobs, make_map

N, K, SHARDS = 900, 6, 3
# So few cells that all of them are in every halo, and all are probed: the search is exact.
SETTINGS: dict[str, Any] = {"n_neighbors": K, "n_shards": SHARDS, "n_cells": 9, "n_epochs": 1}


class Artifacts:
    """The graphs of all shards of a workspace, rows by their number in the input."""

    def __init__(self, workspace: Path, x: np.ndarray) -> None:
        self.rows = [np.load(workspace / shard_file(s, "rows")) for s in range(SHARDS)]
        self.shard_of = np.empty(N, int)
        self.place_of = np.empty(N, int)
        for s, rows in enumerate(self.rows):
            self.shard_of[rows] = s
            self.place_of[rows] = np.arange(len(rows))
        self.folder = workspace
        gaps = ((x[:, None].astype(np.float64) - x) ** 2).sum(axis=2)
        np.fill_diagonal(gaps, np.inf)
        self.nearest = np.argsort(gaps, axis=1)[:, :K].astype(np.int32)
        self.p = np.zeros((N, N))
        np.put_along_axis(self.p, self.nearest, neighbor_weights(self.nearest, "log").astype(np.float64), axis=1)

    def load(self, shard: int, what: str) -> np.ndarray:
        return np.load(self.folder / graph_file(shard, what))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    x = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    workspace = tmp_path_factory.mktemp("halo") / "w"
    result = make_map(x, workspace=workspace, keep_stages=True, **SETTINGS)
    found = Artifacts(workspace, x)
    inside = found.shard_of[found.nearest] == found.shard_of[:, None]
    assert 0.1 < inside.mean() < 0.95, "the case has neighbours of both kinds"
    assert result.diagnostics["foreign_share"] == pytest.approx((found.p * ~same(found)).sum() / N, abs=1e-4)
    return found


def same(artifacts: Artifacts) -> np.ndarray:
    return artifacts.shard_of[:, None] == artifacts.shard_of


def test_edges_inside_a_shard_are_p_and_its_transpose(artifacts):
    a = artifacts.p + artifacts.p.T
    for s, rows in enumerate(artifacts.rows):
        indptr, indices, weights = (artifacts.load(s, what) for what in ("indptr", "indices", "weights"))
        found = np.zeros((len(rows), len(rows)))
        for i, (begin, end) in enumerate(pairwise(indptr)):
            found[i, indices[begin:end]] = weights[begin:end]
        np.testing.assert_allclose(found, a[np.ix_(rows, rows)], atol=1e-6)


def test_pulls_of_patches_are_the_sums_over_their_rows(artifacts):
    a = (artifacts.p + artifacts.p.T) * ~same(artifacts)
    patch_of_row = [artifacts.load(s, "patch_of_row") for s in range(SHARDS)]
    n_patches = len(artifacts.load(0, "patch_counts"))
    numbers = np.empty(N, int)
    for s, rows in enumerate(artifacts.rows):
        numbers[rows] = s * n_patches + patch_of_row[s]
    for s, rows in enumerate(artifacts.rows):
        indptr, patches, weights = (
            artifacts.load(s, what) for what in ("cross_indptr", "cross_patches", "cross_weights")
        )
        found = np.zeros((len(rows), SHARDS * n_patches))
        for i, (begin, end) in enumerate(pairwise(indptr)):
            found[i, patches[begin:end]] = weights[begin:end]
        expected = np.zeros_like(found)
        np.add.at(expected.T, numbers, a[rows].T)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_patches_count_their_rows(artifacts):
    for s, rows in enumerate(artifacts.rows):
        counts, patches = artifacts.load(s, "patch_counts"), artifacts.load(s, "patch_of_row")
        assert len(patches) == len(rows)
        np.testing.assert_array_equal(np.bincount(patches, minlength=len(counts)), counts)


def test_without_foreign_attraction_shards_know_nothing_of_each_other(tmp_path):
    make_map(blobs(600), keep_stages=True, workspace=tmp_path / "w", cross_shard_attraction=False, **SETTINGS)
    for s in range(SHARDS):
        assert len(np.load(tmp_path / "w" / graph_file(s, "cross_patches"))) == 0


@given(
    n=st.integers(1, 60), m=st.integers(1, 70), d=st.integers(1, 5), far=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 20), ends=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)  # fmt: skip
def test_nearest_cells(n, m, d, far, seed, ends):
    centroids = (np.random.default_rng(seed).normal(size=(n, d)) + far).astype(np.float32)
    first, last = sorted(min(end, n) for end in ends)
    near = nearest_cells(centroids, first, last, m)
    assert near.shape == (last - first, min(m, n))
    x = centroids.astype(np.float64)
    gaps = ((x[first:last, None] - x) ** 2).sum(axis=2)
    expected = np.sort(gaps, axis=1)[:, : near.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(gaps, near, axis=1), expected, rtol=1e-3, atol=1e-3)
    for row in near:
        assert len(set(row)) == len(row)


def test_rounds_go_across_shards(tmp_path):
    """Few cells are probed; the neighbours of neighbours in other shards then lead to the others."""
    n, k, shards = 30_000, 10, range(3)
    x = np.random.default_rng(1).normal(size=(n, 40)).astype(np.float32)
    workspace = tmp_path / "w"
    result = make_map(
        x, n_neighbors=k, target_recall=0.8, n_shards=3, n_epochs=1, workspace=workspace, keep_stages=True
    )  # fmt: skip
    assert result.diagnostics["rounds"] > 0
    rows = [np.load(workspace / shard_file(s, "rows")) for s in shards]
    owner = np.empty(n, int)
    pairs = set()
    for s in shards:
        owner[rows[s]] = s
        indptr, indices = (np.load(workspace / graph_file(s, what)) for what in ("indptr", "indices"))
        pairs.update(zip(np.repeat(rows[s], np.diff(indptr)).tolist(), rows[s][indices].tolist(), strict=True))
        begin, end, edges = (np.load(workspace / graph_file(s, f"out_{what}")) for what in ("from", "to", "edges"))
        there = np.concatenate([rows[t][end[edges[t] : edges[t + 1]]] for t in shards])
        pairs.update(zip(rows[s][begin].tolist(), there.tolist(), strict=True))
    some = np.random.default_rng(2).choice(n, 1000, replace=False)
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x.astype(np.float64))
    true = search.kneighbors(x[some].astype(np.float64), return_distance=False)[:, 1:]
    found = np.array([[(i, j) in pairs for j in near] for i, near in zip(some.tolist(), true.tolist(), strict=True)])
    across = owner[true] != owner[some][:, None]
    assert 0.2 < across.mean() < 0.95
    assert found[across].mean() > 0.75
    # An edge inside a shard may be that of either of its ends, so a few more are found than by the own list.
    assert found.mean() > result.diagnostics["recall"] - 0.02 > 0.75
