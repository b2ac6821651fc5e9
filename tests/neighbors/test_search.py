"""The neighbor search of a shard against the brute force of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from nomad_dask.backends.cpu.cell_search import CpuCellSearch
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.neighbors.search import Neighbors, find_neighbors
from nomad_dask.neighbors.search_tuning import choose_probes, measure_recall
from nomad_dask.utils.threads import thread_pool


def make_shard(folder: Path, X: np.ndarray, labels: np.ndarray, n_cells: int, resident: bool = True):
    """Write rows sorted by cell; return the file, the sorted rows, and the offsets and means of the cells."""
    order = np.argsort(labels, kind="stable")
    rows = np.ascontiguousarray(X[order], np.float32)
    offsets = np.r_[0, np.bincount(labels, minlength=n_cells).cumsum()]
    means = np.zeros((n_cells, X.shape[1]), np.float32)
    for c in range(n_cells):
        if offsets[c + 1] > offsets[c]:
            means[c] = rows[offsets[c] : offsets[c + 1]].mean(axis=0)
    np.save(folder / "rows.npy", rows)
    vectors = ShardVectors([(folder / "rows.npy", 0, len(rows))], cache_bytes=rows.nbytes if resident else 0)
    return vectors, rows, offsets, means


def search(vectors, offsets, means, k=15, n_threads=1, **changes) -> Neighbors:
    options = {
        "n_probes": None,
        "target_recall": 0.95,
        "seed": 0,
        "on_progress": lambda done: None,
    } | changes
    memory_bytes, n_queries = options.pop("memory_bytes", 1 << 28), options.pop("n_queries", None)
    with thread_pool(n_threads) as pool:
        primitives = CpuCellSearch(vectors, offsets, means, pool, options["seed"], memory_bytes, n_queries)
        return find_neighbors(primitives, k, **options)


def blobs(n: int, d: int, seed: int = 0, rank: int = 12) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows near a surface of `rank` dimensions in clusters, with K-Means cells."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(20, rank)) * 2
    low = centers[rng.integers(20, size=n)] + rng.normal(size=(n, rank))
    X = (low @ rng.normal(size=(rank, d)) + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
    n_cells = max(1, n // 150)
    return X, KMeans(n_cells, n_init=1, max_iter=5, random_state=0).fit_predict(X), n_cells


def brute_force(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows.astype(np.float64))
    distances, ids = search.kneighbors()
    return ids, distances**2


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("d", [5, 200])
def test_all_cells_equal_brute_force(tmp_path, d, resident):
    vectors, rows, offsets, means = make_shard(tmp_path, *blobs(3000, d), resident=resident)
    result = search(vectors, offsets, means, n_probes=len(means))
    ids, distances = brute_force(rows, 15)
    assert result.recall == 1.0
    assert result.ids.dtype == np.int32
    assert result.distances.dtype == np.float32
    np.testing.assert_array_equal(result.ids, ids)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-4)


def test_tight_clusters_far_from_the_origin_keep_their_order(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    X = (1e4 + 1e3 * rng.normal(size=(10, 30))[labels] + 0.5 * rng.normal(size=(1000, 30))).astype(np.float32)
    vectors, rows, offsets, means = make_shard(tmp_path, X, labels, 10)
    result = search(vectors, offsets, means, n_probes=10)
    np.testing.assert_array_equal(result.ids, brute_force(rows, 15)[0])


@pytest.mark.parametrize(("d", "resident"), [(20, True), (300, True), (300, False)])
def test_target_recall_is_reached_and_the_reported_recall_is_right(tmp_path, d, resident):
    vectors, rows, offsets, means = make_shard(tmp_path, *blobs(3000, d), resident=resident)
    result = search(vectors, offsets, means, n_threads=2)
    true = brute_force(rows, 15)[0]
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(result.ids, true, strict=True)]) / 15
    assert result.recall >= 0.95
    assert abs(result.recall - recall) < 0.03
    assert resident or result.rounds == 0


@pytest.mark.parametrize("k", [2, 15, 40])
def test_rounds_increase_recall_where_probes_are_expensive(tmp_path, monkeypatch, k):
    monkeypatch.setattr("nomad_dask.neighbors.search_tuning.ROUNDS_COST", 100)
    X = np.random.default_rng(0).normal(size=(6000, 10)).astype(np.float32)
    labels = KMeans(40, n_init=1, max_iter=5, random_state=0).fit_predict(X)
    vectors, _, offsets, means = make_shard(tmp_path, X, labels, 40)
    result = search(vectors, offsets, means, k=k)
    probes_only = search(vectors, offsets, means, k=k, n_probes=result.n_probes)
    assert result.rounds > 0
    assert result.recall > probes_only.recall + 0.02


@pytest.mark.parametrize("probes", [3, None])
def test_same_bits_for_any_number_of_threads(tmp_path, probes):
    vectors, _, offsets, means = make_shard(tmp_path, *blobs(3000, 200))
    one, two, five = (
        search(vectors, offsets, means, n_probes=probes, target_recall=0.99, n_threads=t) for t in (1, 2, 5)
    )
    for other in (two, five):
        assert one.ids.tobytes() == other.ids.tobytes()
        assert one.distances.tobytes() == other.distances.tobytes()
        assert (one.recall, one.rounds, one.n_probes) == (other.recall, other.rounds, other.n_probes)


def test_less_memory_gives_the_same_lists(tmp_path):
    vectors, _, offsets, means = make_shard(tmp_path, *blobs(5000, 30), resident=False)
    large, small = (search(vectors, offsets, means, n_probes=4, memory_bytes=m) for m in (1 << 28, 1 << 16))
    np.testing.assert_array_equal(large.ids, small.ids)
    np.testing.assert_array_equal(large.distances, small.distances)


def test_thousands_of_identical_rows(tmp_path):
    X, labels, n_cells = blobs(6000, 10)
    X[labels == 0] = X[0]
    X = np.concatenate([X, np.tile(X[:1] + 50, (4000, 1))])
    labels = np.concatenate([labels, np.full(4000, n_cells)])
    vectors, rows, offsets, means = make_shard(tmp_path, X, labels, n_cells + 1)
    result = search(vectors, offsets, means)
    assert (result.ids != np.arange(len(rows))[:, None]).all()
    assert (result.ids >= 0).all()
    assert (result.distances[-4000:] == 0).all()
    assert result.recall >= 0.95
    assert all(len(set(row)) == 15 for row in result.ids)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_fewer_rows_than_neighbors(tmp_path, n):
    X = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    vectors, rows, offsets, means = make_shard(tmp_path, X, np.arange(n) % 3, 3)
    result = search(vectors, offsets, means)
    assert result.ids.shape == (n, n - 1)
    if n > 1:
        np.testing.assert_array_equal(result.ids, brute_force(rows, n - 1)[0])


def test_tiny_cells_make_the_search_probe_more_cells(tmp_path):
    X = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)
    vectors, _, offsets, means = make_shard(tmp_path, X, np.arange(5000) % 2000, 2001)  # the last is empty
    result = search(vectors, offsets, means, n_probes=1)
    assert (result.ids >= 0).all()
    assert np.isfinite(result.distances).all()


def test_progress_ends_at_all_rows(tmp_path):
    vectors, _, offsets, means = make_shard(tmp_path, *blobs(5000, 8))
    progress: list[int] = []
    search(vectors, offsets, means, on_progress=progress.append, n_threads=2)
    assert progress == sorted(progress)
    assert progress[-1] == 5000


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_lists_are_ascending_and_contain_distinct_other_rows(tmp_path, n, d, k, n_cells, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 3, size=(n, d)).astype(np.float32)  # many ties
    vectors, rows, offsets, means = make_shard(tmp_path, X, rng.integers(n_cells, size=n), n_cells)
    result = search(vectors, offsets, means, k=k, n_probes=int(rng.integers(1, n_cells + 1)))
    assert result.ids.shape == (n, min(k, n - 1))
    assert (np.diff(result.distances, axis=1) >= 0).all()
    for i, row in enumerate(result.ids):
        assert i not in row
        assert len(set(row)) == len(row)
        np.testing.assert_allclose(result.distances[i], ((rows[row] - rows[i]) ** 2).sum(axis=1), rtol=1e-5)


def test_probes_are_the_fewest_that_reach_the_target():
    near, far = np.repeat(np.arange(10), 10), np.repeat(np.arange(1000), 10)
    filter_ranks = np.arange(100)
    assert choose_probes(near, filter_ranks, 0.9, 250, True) == (10, 98)  # few probes are enough
    assert choose_probes(far, filter_ranks, 0.9, 250, False) == (950, 98)  # rounds are impossible
    assert choose_probes(far, filter_ranks, 0.9, 250, True) == (750, 96)  # a start for rounds
    assert choose_probes(near, filter_ranks, 1.0, 250, True) == (10, 100)


def test_recall_counts_ties_as_found():
    true = np.array([[1.0, 2.0, 2.0]])
    assert measure_recall(np.array([[1.0, 2.0, 3.0]]), true) == pytest.approx(2 / 3)
    assert measure_recall(np.array([[2.0, 2.0, np.inf]]), true) == pytest.approx(2 / 3)
