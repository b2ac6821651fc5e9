"""Own edges and pulls of grouped patches together are the whole graph: no weight is lost between shards."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.neighbors.graph import rank_weights
from nomad_dask.neighbors.stage import graph_file
from nomad_dask.partition.shard_files import shard_file
from tests.helpers.runs import make_map

N, K, SHARDS = 600, 7, 3
N_PATCHES = 90  # so few that most patches have several rows


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def attraction(rows) -> np.ndarray:
    """P + Pᵀ of the nearest rows, by brute force in float64."""
    gaps = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    p = np.zeros((N, N))
    np.put_along_axis(p, np.argsort(gaps, axis=1)[:, :K], rank_weights(K, "log")[None], axis=1)
    return p + p.T


def make(workspace: Path, x: np.ndarray, **more: Any) -> list[dict[str, np.ndarray]]:
    """Make a map in which every cell is near every other and is probed; return what its shards keep."""
    make_map(
        x,
        keep_stages=True,
        workspace=workspace,
        n_neighbors=K,
        n_shards=SHARDS,
        n_cells=12,
        n_probes=1000,
        n_epochs=1,
        **more,
    )
    files = (
        "indptr", "indices", "weights", "patch_of_row", "patch_counts",
        "cross_indptr", "cross_patches", "cross_weights",
    )  # fmt: skip
    return [
        {what: np.load(workspace / graph_file(s, what)) for what in files}
        | {"rows": np.load(workspace / shard_file(s, "rows"))}
        for s in range(SHARDS)
    ]


def dense(indptr: np.ndarray, columns: np.ndarray, weights: np.ndarray, width: int) -> np.ndarray:
    out = np.zeros((len(indptr) - 1, width))
    for i, (begin, end) in enumerate(pairwise(indptr)):
        assert len(set(columns[begin:end])) == end - begin, "no column twice"
        out[i, columns[begin:end]] = weights[begin:end]
    return out


@pytest.fixture(scope="module")
def shards(rows, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nomad_dask.neighbors.stage.N_PATCHES", N_PATCHES)
        return make(tmp_path_factory.mktemp("link") / "w", rows)


def test_patches_have_several_rows(shards):
    for shard in shards:
        assert len(shard["patch_counts"]) == N_PATCHES // SHARDS
        assert shard["patch_counts"].sum() == len(shard["rows"])
        assert shard["patch_counts"].max() > 1


def test_no_weight_of_a_row_is_lost(shards, attraction):
    own_shard = np.empty(N, int)
    for s, shard in enumerate(shards):
        own_shard[shard["rows"]] = s
    crossing = 0
    for s, shard in enumerate(shards):
        mine = attraction[shard["rows"]]
        inside = own_shard == s
        n = len(shard["rows"])
        own = dense(shard["indptr"], shard["indices"], shard["weights"], n)
        np.testing.assert_allclose(own, mine[:, shard["rows"]], atol=1e-6)
        far = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], N_PATCHES)
        np.testing.assert_allclose(far.sum(axis=1), mine[:, ~inside].sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(own.sum(axis=1) + far.sum(axis=1), mine.sum(axis=1), atol=1e-5)
        crossing += int((far.sum(axis=1) > 0).sum())
    assert crossing > N / 10


def test_every_patch_pulls_with_the_weight_of_its_rows(shards, attraction):
    per_shard = N_PATCHES // SHARDS
    patch_of = np.empty(N, int)
    for s, shard in enumerate(shards):
        patch_of[shard["rows"]] = s * per_shard + shard["patch_of_row"]
    membership = np.eye(N_PATCHES)[patch_of]
    for s, shard in enumerate(shards):
        expected = attraction[shard["rows"]] @ membership
        expected[:, s * per_shard : (s + 1) * per_shard] = 0
        far = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], N_PATCHES)
        np.testing.assert_allclose(far, expected, atol=1e-5)


def test_patches_of_the_means_repulsion_are_the_cells(rows, attraction, tmp_path):
    shards = make(tmp_path / "w", rows, repulsion_method="means")
    quota = len(shards[0]["patch_counts"])
    assert quota < N / SHARDS
    for s, shard in enumerate(shards):
        offsets = np.load(tmp_path / "w" / shard_file(s, "cell_offsets"))
        sizes = shard["patch_counts"]
        assert len(sizes) == quota >= len(offsets) - 1
        np.testing.assert_array_equal(sizes[: len(offsets) - 1], np.diff(offsets))
        others = np.concatenate([t["rows"] for t in shards if t is not shard])
        far = dense(shard["cross_indptr"], shard["cross_patches"], shard["cross_weights"], SHARDS * quota)
        expected = attraction[np.ix_(shard["rows"], others)].sum(axis=1)
        np.testing.assert_allclose(far.sum(axis=1), expected, atol=1e-5)
