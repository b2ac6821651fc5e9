"""Positions between those of the nearest anchors, against brute force in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nomad_dask.backends.anchors import cells_to_search
from nomad_dask.backends.base import Backend
from nomad_dask.backends.cpu import interpolation
from nomad_dask.backends.data import Anchors
from nomad_dask.backends.nearest_cells import nearest_cells
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.backends.select import BackendCache


@dataclass
class Shard:
    """Rows sorted by cell, some of which are anchors."""

    file: Path
    x: np.ndarray
    offsets: np.ndarray
    centroids: np.ndarray
    anchors: Anchors
    metric: str = "euclidean"

    def interpolate(self, backend: Backend, held: bool = True, done: list[int] | None = None) -> np.ndarray:
        np.save(self.file, self.x)
        vectors = ShardVectors([(self.file, 0, len(self.x))], self.metric)
        done = [] if done is None else done
        cache_bytes = 1 << 30 if held else 0
        return backend.interpolate(vectors, self.offsets, self.centroids, self.anchors, cache_bytes, done.append)

    def vectors(self) -> np.ndarray:
        x = self.x.astype(np.float64)
        return x / np.linalg.norm(x, axis=1, keepdims=True) if self.metric == "cosine" else x


def make_shard(
    folder: Path,
    sizes: list[int],
    n_anchors: int,
    seed: int = 0,
    d: int = 6,
    dtype: str = "f4",
    metric: str = "euclidean",
) -> Shard:
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(len(sizes), d)) + 5
    x = (np.repeat(centers, sizes, axis=0) + rng.normal(size=(sum(sizes), d))).astype(dtype)
    anchors = np.sort(rng.choice(len(x), min(n_anchors, len(x)), replace=False))
    positions = rng.normal(size=(len(anchors), 2)).astype(np.float32) * 50
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shard = Shard(folder / "x.npy", x, offsets, centers.astype(np.float32), Anchors(anchors, positions), metric)
    if metric == "cosine":
        shard.centroids /= np.linalg.norm(shard.centroids, axis=1, keepdims=True)
    return shard


def searched_cells(shard: Shard, cell: int) -> np.ndarray:
    """The 8 nearest cells, or as many as contain 4 anchors, or all."""
    centroids = shard.centroids.astype(np.float64)
    near = np.argsort(((centroids - centroids[cell]) ** 2).sum(axis=1), kind="stable")
    cell_of_anchor = np.searchsorted(shard.offsets, shard.anchors.rows, side="right") - 1
    n = 8
    while np.isin(cell_of_anchor, near[:n]).sum() < min(4, len(cell_of_anchor)):
        n += 1
    return near[:n]


def brute_force(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Return expected positions, and whether the order of the nearest anchors is certain despite rounding."""
    x, rows = shard.vectors(), shard.anchors.rows
    cell_of_anchor = np.searchsorted(shard.offsets, rows, side="right") - 1
    expected, certain = np.empty((len(x), 2)), np.empty(len(x), bool)
    for cell in range(len(shard.centroids)):
        candidates = np.flatnonzero(np.isin(cell_of_anchor, searched_cells(shard, cell)))
        for row in range(shard.offsets[cell], shard.offsets[cell + 1]):
            distances = ((x[rows[candidates]] - x[row]) ** 2).sum(axis=1)
            order = np.argsort(distances)
            nearest = candidates[order[:4]]
            weights = 1 / np.arange(1, len(nearest) + 1)
            expected[row] = weights @ shard.anchors.positions[nearest] / weights.sum()
            certain[row] = (np.diff(distances[order[:5]]) > 1e-4).all()
    return expected, certain


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@example(sizes=[700], n_anchors=60, seed=0, dtype="f4", metric="euclidean", held=True)  # one cell, several blocks
@example(sizes=[90], n_anchors=3, seed=0, dtype="f4", metric="euclidean", held=False)
@example(sizes=[40] * 30, n_anchors=1, seed=0, dtype="f4", metric="euclidean", held=True)
@example(sizes=[2] * 60, n_anchors=8, seed=0, dtype="f4", metric="euclidean", held=False)  # most have no anchors
@example(sizes=[0, 5, 0, 0, 30, 0], n_anchors=9, seed=0, dtype="f4", metric="euclidean", held=True)
@example(sizes=[1, 600, 1], n_anchors=602, seed=0, dtype="f4", metric="euclidean", held=True)  # all are anchors
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any),
    n_anchors=st.integers(1, 300), seed=st.integers(0, 50), dtype=st.sampled_from(["f2", "f4"]),
    metric=st.sampled_from(["euclidean", "cosine"]), held=st.booleans(),
)  # fmt: skip
def test_rows_are_at_the_weighted_mean_of_their_nearest_anchors(
    backend, tmp_path, sizes, n_anchors, seed, dtype, metric, held
):
    shard = make_shard(tmp_path, sizes, n_anchors, seed, dtype=dtype, metric=metric)
    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpolation, "_ROWS_AT_ONCE", 100)
        positions = shard.interpolate(backend, held, done)
    assert positions.dtype == np.float32
    assert max(done) == len(shard.x)
    expected, certain = brute_force(shard)
    np.testing.assert_allclose(positions[certain], expected[certain], rtol=1e-5, atol=1e-4)


def test_most_rows_of_the_reference_are_certain(tmp_path):
    """Else the test above would compare little."""
    shards = [make_shard(tmp_path, [40] * 30, 80, seed, metric=m) for seed in range(3) for m in ("euclidean", "cosine")]
    assert all(brute_force(shard)[1].mean() > 0.8 for shard in shards)


@pytest.mark.parametrize("n_equal", [30, 1200])
def test_equal_rows_are_at_the_place_of_equal_anchors(backend, tmp_path, n_equal):
    """Of more equal anchors than are compared at once, and of those that are divided between cells."""
    x = np.repeat(np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32), n_equal, axis=0)
    rows = np.arange(0, len(x), 3)
    places = np.float32([[0, 0], [9, 0], [0, 9], [9, 9], [-9, 9], [9, -9]])
    offsets = np.arange(0, len(x) + 1, n_equal // 2)
    shard = Shard(tmp_path / "x.npy", x, offsets, x[offsets[:-1]], Anchors(rows, places[rows // n_equal]))
    np.testing.assert_allclose(shard.interpolate(backend), places[np.arange(len(x)) // n_equal], atol=1e-5)


@pytest.mark.parametrize("n_anchors", [6000, 3])
def test_threads_and_memory_change_no_bit(tmp_path, n_anchors):
    rng = np.random.default_rng(0)
    shard = make_shard(tmp_path, list(rng.integers(0, 400, size=200)), n_anchors, d=20, dtype="f2")
    assert len(shard.x) > 3 * interpolation._ROWS_AT_ONCE
    results = []
    for n_threads, held in ((1, True), (1, True), (2, True), (5, True), (1, False), (3, False)):
        with BackendCache().use("cpu", n_threads) as backend:
            results.append(shard.interpolate(backend, held))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@given(n_cells=st.integers(1, 80), n_anchors=st.integers(0, 200), seed=st.integers(0, 50))
def test_cells_are_searched_until_they_contain_enough_anchors(n_cells, n_anchors, seed):
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(n_cells, 4)).astype(np.float32)
    counts = np.bincount(rng.integers(0, max(1, n_cells // 9), size=n_anchors), minlength=n_cells)
    searched = cells_to_search(counts, lambda cells, m: nearest_cells(centroids, cells, m))
    assert len(searched.offsets) == n_cells + 1
    distances = np.linalg.norm(centroids.astype(np.float64)[:, None] - centroids, axis=2)
    for cells, row in zip(np.split(searched.cells, searched.offsets[1:-1]), distances, strict=True):
        np.testing.assert_allclose(row[cells], np.sort(row)[: len(cells)], atol=1e-5)  # the nearest ones
        enough = min(4, n_anchors)
        assert counts[cells].sum() >= enough
        assert len(cells) == min(8, n_cells) or counts[cells[:-1]].sum() < enough
