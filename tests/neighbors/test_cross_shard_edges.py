"""Edges within shards and to patches of other shards are together the whole graph: no weight is lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.backends.rank_weights import rank_weights
from nomad_dask.neighbors.graph_files import graph_file
from nomad_dask.partition.shard_files import shard_file
from tests.helpers.nearest_level import nearest_level
from tests.helpers.runs import make_map

N, K, SHARDS = 600, 7, 3
N_PATCHES = 90  # so few that most patches have several rows


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def attraction(rows) -> np.ndarray:
    """P + Pᵀ of the nearest rows, by brute force in float64."""
    distances = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    p = np.zeros((N, N))
    np.put_along_axis(p, np.argsort(distances, axis=1)[:, :K], rank_weights(K, "log")[None], axis=1)
    return p + p.T


def make_shards(workspace: Path, x: np.ndarray, **more: Any) -> list[dict[str, np.ndarray]]:
    """Make a map with an exact search, in which all cells are probed; return the artifacts of its shards."""
    make_map(
        x,
        keep_stages=True,
        workspace=workspace,
        n_neighbors=K,
        affinity="log",
        n_tail_neighbors=0,
        n_shards=SHARDS,
        n_cells=12,
        n_probes=1000,
        n_epochs=1,
        **more,
    )
    files = (
        "indptr", "indices", "weights", "weight_codes", "patch_of_row", "patch_counts",
        "cross_indptr", "cross_patches", "cross_weights",
    )  # fmt: skip
    return [
        {name: np.load(workspace / graph_file(s, name)) for name in files}
        | {"rows": np.load(workspace / shard_file(s, "rows"))}
        for s in range(SHARDS)
    ]


def dense(indptr: np.ndarray, columns: np.ndarray, weights: np.ndarray, width: int) -> np.ndarray:
    out = np.zeros((len(indptr) - 1, width))
    for i, (begin, end) in enumerate(pairwise(indptr)):
        assert len(set(columns[begin:end])) == end - begin, "a column occurs twice"
        out[i, columns[begin:end]] = weights[begin:end]
    return out


@pytest.fixture(scope="module")
def shards(rows, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomad_dask.neighbors.patches.N_PATCHES", N_PATCHES)
        return make_shards(tmp_path_factory.mktemp("link") / "w", rows)


def test_patches_have_several_rows(shards):
    for shard in shards:
        assert len(shard["patch_counts"]) == N_PATCHES // SHARDS
        assert shard["patch_counts"].sum() == len(shard["rows"])
        assert shard["patch_counts"].max() > 1


def test_no_weight_of_a_row_is_lost(shards, attraction):
    shard_of = np.empty(N, int)
    for s, shard in enumerate(shards):
        shard_of[shard["rows"]] = s
    n_linked = 0
    for s, shard in enumerate(shards):
        expected = attraction[shard["rows"]]
        is_inside = shard_of == s
        n = len(shard["rows"])
        within = dense(shard["indptr"], shard["indices"], shard["weights"][shard["weight_codes"]], n)
        np.testing.assert_allclose(within, nearest_level(expected[:, shard["rows"]], shard["weights"]), atol=1e-6)
        np.testing.assert_allclose(within, expected[:, shard["rows"]], rtol=0.01)
        cross = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], N_PATCHES)
        np.testing.assert_allclose(cross.sum(axis=1), expected[:, ~is_inside].sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(within.sum(axis=1) + cross.sum(axis=1), expected.sum(axis=1), rtol=0.01)
        n_linked += int((cross.sum(axis=1) > 0).sum())
    assert n_linked > N / 10


def test_every_patch_attracts_with_the_weight_of_its_rows(shards, attraction):
    per_shard = N_PATCHES // SHARDS
    patch_of = np.empty(N, int)
    for s, shard in enumerate(shards):
        patch_of[shard["rows"]] = s * per_shard + shard["patch_of_row"]
    membership = np.eye(N_PATCHES)[patch_of]
    for s, shard in enumerate(shards):
        expected = attraction[shard["rows"]] @ membership
        expected[:, s * per_shard : (s + 1) * per_shard] = 0
        cross = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], N_PATCHES)
        np.testing.assert_allclose(cross, expected, atol=1e-5)


def test_patches_of_the_means_repulsion_are_the_cells(rows, attraction, tmp_path):
    shards = make_shards(tmp_path / "w", rows, repulsion_method="means")
    n_patches = len(shards[0]["patch_counts"])
    assert n_patches < N / SHARDS
    for s, shard in enumerate(shards):
        offsets = np.load(tmp_path / "w" / shard_file(s, "cell_offsets"))
        sizes = shard["patch_counts"]
        assert len(sizes) == n_patches >= len(offsets) - 1
        np.testing.assert_array_equal(sizes[: len(offsets) - 1], np.diff(offsets))
        others = np.concatenate([t["rows"] for t in shards if t is not shard])
        cross = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], SHARDS * n_patches)
        expected = attraction[np.ix_(shard["rows"], others)].sum(axis=1)
        np.testing.assert_allclose(cross.sum(axis=1), expected, atol=1e-5)
