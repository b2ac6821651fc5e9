"""The GPU's neighbor search with emulated kernels, against brute force and the CPU's search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from nomad_dask.backends.cpu.cell_search import CpuCellSearch
from nomad_dask.backends.gpu.batched_gemm import CellProducts, ProbedCells, Queries
from nomad_dask.backends.gpu.cell_search import GpuCellSearch
from nomad_dask.backends.gpu.row_cache import ResidentRows, StreamedRows
from nomad_dask.backends.row_reader import ShardVectors, to_float32
from nomad_dask.neighbors.search import find_neighbors
from nomad_dask.utils.threads import thread_pool
from tests.helpers.host_runtime import HostRuntime

HELD, STREAMED = 8 << 30, 1 << 17
"""Bytes of device memory with which the rows below are resident, or streamed."""


def shard(folder, X, labels, n_cells, metric="euclidean", resident=False):
    """Write rows sorted by cell; return their reader, the float32 rows, and offsets and means of the cells."""
    order = np.argsort(labels, kind="stable")
    np.save(folder / "rows.npy", np.ascontiguousarray(X[order], np.float32))
    rows = to_float32(np.load(folder / "rows.npy"), metric)
    offsets = np.r_[0, np.bincount(labels, minlength=n_cells).cumsum()]
    means = np.zeros((n_cells, X.shape[1]), np.float32)
    for c in np.flatnonzero(np.diff(offsets)):
        means[c] = rows[offsets[c] : offsets[c + 1]].mean(axis=0)
    vectors = ShardVectors([(folder / "rows.npy", 0, len(rows))], metric, rows.nbytes if resident else 0)
    return vectors, rows, offsets, means


def gpu(vectors, offsets, means, free=HELD, n_queries=None, memory_bytes=1 << 28, seed=0):
    return GpuCellSearch(vectors, offsets, means, HostRuntime(seed=seed, free=free), 0, memory_bytes, n_queries)


def find(search, k=15, n_probes=None, target_recall=0.95, advance=lambda done: None):
    return find_neighbors(search, k, n_probes=n_probes, target_recall=target_recall, seed=0, on_progress=advance)


def blobs(n, d, seed=0, rank=12, per_cell=50):
    """Rows near a surface of `rank` dimensions in clusters, with K-Means cells."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, rank)) * 2
    low = centers[rng.integers(12, size=n)] + rng.normal(size=(n, rank))
    X = (low @ rng.normal(size=(rank, d)) + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
    n_cells = max(1, n // per_cell)
    return X, KMeans(n_cells, n_init=1, max_iter=5, random_state=0).fit_predict(X), n_cells


def brute(rows, k):
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows.astype(np.float64)).kneighbors()
    return found[1], found[0] ** 2


def overlap(ids, true):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, true, strict=True)]) / true.shape[1]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("d", "free"), [(5, HELD), (100, HELD), (101, STREAMED), (100, STREAMED)])
def test_all_cells_equal_brute_force(tmp_path, d, free, metric):
    vectors, rows, offsets, means = shard(tmp_path, *blobs(300, d, per_cell=25), metric)
    search = gpu(vectors, offsets, means, free)
    found = find(search, n_probes=len(means))
    assert isinstance(search._loaded.rows, ResidentRows if free == HELD else StreamedRows)
    ids, distances = brute(rows, 15)
    assert found.recall == 1.0
    assert (found.ids.dtype, found.distances.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.distances, distances, rtol=2e-5)


@pytest.mark.parametrize("n_probes", [1, 4])
def test_the_same_recall_as_the_cpu_at_equal_probes(tmp_path, n_probes):
    vectors, rows, offsets, means = shard(tmp_path, *blobs(300, 20), resident=True)
    found = find(gpu(vectors, offsets, means), n_probes=n_probes)
    with thread_pool(1) as pool:
        reference = find(CpuCellSearch(vectors, offsets, means, pool, 0, 1 << 28), n_probes=n_probes)
    true = brute(rows, 15)[0]
    assert overlap(found.ids, true) == pytest.approx(overlap(reference.ids, true), abs=0.002)
    assert (found.ids == reference.ids).mean() > 0.995
    same = found.ids == reference.ids
    np.testing.assert_allclose(found.distances[same], reference.distances[same], rtol=2e-5)
    assert found.recall == pytest.approx(reference.recall, abs=0.003)


def test_resident_and_streamed_rows_give_the_same_lists(tmp_path):
    vectors, _, offsets, means = shard(tmp_path, *blobs(200, 64, per_cell=30))
    free_bytes = STREAMED // 2
    held, streamed, narrow = (
        find(gpu(vectors, offsets, means, free, memory_bytes=m), k=7, n_probes=3)
        for free, m in ((HELD, 1 << 28), (free_bytes, 1 << 28), (free_bytes, 1 << 14))
    )
    for other in (streamed, narrow):
        np.testing.assert_array_equal(held.ids, other.ids)
        np.testing.assert_array_equal(held.distances, other.distances)
        assert held.recall == other.recall


def test_the_order_of_blocks_and_threads_changes_nothing(tmp_path):
    vectors, _, offsets, means = shard(tmp_path, *blobs(200, 12, per_cell=30))
    one, other = (find(gpu(vectors, offsets, means, seed=s), n_probes=3) for s in (0, 7))
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.distances, other.distances)


def test_target_recall_is_reached_and_reported_correctly(tmp_path, monkeypatch):
    monkeypatch.setattr("nomad_dask.neighbors.search.SMALL_SHARD", 100)  # or the search is exhaustive
    vectors, rows, offsets, means = shard(tmp_path, *blobs(700, 24, per_cell=15))
    found = find(gpu(vectors, offsets, means), k=5)
    assert found.n_probes < len(means)
    assert found.recall >= 0.95
    assert abs(found.recall - overlap(found.ids, brute(rows, 5)[0])) < 0.03


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_tight_clusters_far_from_the_origin_keep_their_order(tmp_path, scale):
    """At any scale: without centering, half precision would overflow, or merge all points."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 60)
    X = 1e4 + 1e3 * rng.normal(size=(6, 30))[labels] + 0.5 * rng.normal(size=(360, 30))
    vectors, rows, offsets, means = shard(tmp_path, (X * scale).astype(np.float32), labels, 6)
    found = find(gpu(vectors, offsets, means), n_probes=6)
    np.testing.assert_array_equal(found.ids, brute(rows.astype(np.float64) / scale, 15)[0])


@pytest.mark.parametrize("free", [HELD, STREAMED])
def test_halo_rows_are_found_but_not_searched_for(tmp_path, free):
    vectors, rows, offsets, means = shard(tmp_path, *blobs(600, 80))
    own_cells = 6
    n_own = int(offsets[own_cells])
    found = find(gpu(vectors, offsets, means, free, n_queries=n_own), n_probes=len(means))
    ids, distances = brute(rows, 15)
    np.testing.assert_array_equal(found.ids, ids[:n_own])
    np.testing.assert_allclose(found.distances, distances[:n_own], rtol=2e-5)
    assert (found.ids >= n_own).any()


def test_many_identical_rows(tmp_path):
    X, labels, n_cells = blobs(200, 10)
    X[labels == 0] = X[0]
    X = np.concatenate([X, np.tile(X[:1] + 50, (250, 1))])
    labels = np.concatenate([labels, np.full(250, n_cells)])
    vectors, rows, offsets, means = shard(tmp_path, X, labels, n_cells + 1)
    found = find(gpu(vectors, offsets, means), n_probes=3)
    assert (found.ids != np.arange(len(rows))[:, None]).all()
    assert (found.ids >= 0).all()
    assert (found.distances[-250:] == 0).all()
    assert (found.ids[-230:] == np.arange(200, 215)).all()  # of equals the first
    assert all(len(set(row)) == 15 for row in found.ids)


def test_a_cell_larger_than_the_buffers(tmp_path):
    """It is streamed in ranges that are much smaller than the cell."""
    X, labels, _ = blobs(600, 64)
    vectors, rows, offsets, means = shard(tmp_path, X, (labels > 3).astype(int), 2)
    search = gpu(vectors, offsets, means, STREAMED // 2)
    found = find(search, n_probes=2, k=5)
    assert search._loaded.products.piece_rows < np.diff(offsets).max() / 4
    np.testing.assert_array_equal(found.ids, brute(rows, 5)[0])


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_fewer_rows_than_neighbors(tmp_path, n):
    X = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    vectors, rows, offsets, means = shard(tmp_path, X, np.arange(n) % 3, 3)
    found = find(gpu(vectors, offsets, means))
    assert found.ids.shape == (n, n - 1)
    if n > 1:
        np.testing.assert_array_equal(found.ids, brute(rows, n - 1)[0])


@pytest.mark.parametrize("free", [HELD, 1 << 12])
def test_tiny_cells_probe_more_cells(tmp_path, free):
    X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    vectors, _, offsets, means = shard(tmp_path, X, np.arange(200) % 80, 81)  # the last is empty
    found = find(gpu(vectors, offsets, means, free), n_probes=1)
    with thread_pool(1) as pool:
        reference = find(CpuCellSearch(vectors, offsets, means, pool, 0, 1 << 28), n_probes=1)
    assert (found.ids >= 0).all()
    assert np.isfinite(found.distances).all()
    assert found.distances.sum() <= reference.distances.sum() * 1.05


def test_progress_ends_at_all_rows(tmp_path):
    vectors, _, offsets, means = shard(tmp_path, *blobs(200, 8))
    progress: list[int] = []
    find(gpu(vectors, offsets, means, 1 << 14), k=3, n_probes=2, advance=progress.append)
    assert progress == sorted(progress)
    assert len(progress) > 1
    assert progress[-1] == 200


def test_filter_ranks_count_the_nearer_rows(tmp_path):
    vectors, rows, offsets, means = shard(tmp_path, *blobs(600, 24))
    search = gpu(vectors, offsets, means)
    search.build_filter(None)
    picked = np.arange(7, 600, 40, dtype=np.int32)
    D = ((rows[picked, None].astype(np.float64) - rows[None]) ** 2).sum(axis=2)
    D[np.arange(len(picked)), picked] = np.inf
    far = np.argsort(D, axis=1)[:, [0, 2, 9, 100]]
    assert np.abs(search.filter_ranks(picked, far) - [0, 2, 9, 100]).max() <= 1
    assert not search.can_refine(15)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 90), st.integers(1, 9), st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
def test_lists_are_ascending_and_contain_distinct_other_rows(tmp_path, n, d, k, n_cells, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 3, size=(n, d)).astype(np.float32)  # many ties
    vectors, rows, offsets, means = shard(tmp_path, X, rng.integers(n_cells, size=n), n_cells)
    free = HELD if seed % 2 else 1 << 12
    found = find(gpu(vectors, offsets, means, free), k=k, n_probes=int(rng.integers(1, n_cells + 1)))
    assert found.ids.shape == (n, min(k, n - 1))
    assert (np.diff(found.distances, axis=1) >= 0).all()
    for i, row in enumerate(found.ids):
        assert i not in row
        assert len(set(row)) == len(row)
        np.testing.assert_allclose(found.distances[i], ((rows[row] - rows[i]) ** 2).sum(axis=1), rtol=1e-5)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 90), st.integers(0, 99))
def test_the_smallest_columns_are_selected(n, m, kept, seed):
    runtime = HostRuntime()
    rng = np.random.default_rng(seed)
    products, norms = rng.integers(-9, 9, (n, m)).astype(np.float32), rng.integers(-9, 9, m).astype(np.float32)
    values, columns = np.full((n, kept), np.inf, np.float32), np.full((n, kept), -1, np.int32)
    arguments = (products, norms, np.int64(n), np.int64(m), np.int32(kept), values, columns)
    runtime.launch("select_columns", 2, 32 * n, *arguments)
    order = np.argsort(norms - 2 * products, axis=1, kind="stable")[:, :kept]
    np.testing.assert_array_equal(columns[:, :m], order)
    assert (columns[:, m:] == -1).all()
    np.testing.assert_array_equal(values[:, :m], np.take_along_axis(norms - 2 * products, order, axis=1))


def test_rows_are_centered_and_rounded_as_by_numpy():
    runtime, rng = HostRuntime(), np.random.default_rng(0)
    rows = (rng.normal(size=(50, 13)) * 10.0 ** rng.uniform(-9, 0, (50, 13))).astype(np.float32)
    centers = rng.normal(size=(3, 13)).astype(np.float32) * np.float32(1e-3)
    picks, of = rng.integers(50, size=80).astype(np.int32), rng.integers(3, size=80).astype(np.int32)
    rows[picks[0]] = centers[of[0]]
    out, lengths = np.full((80, 16), 7, np.uint16), np.empty(80, np.float32)
    runtime.launch(
        "center_rows", 2, 32 * 80, rows, picks, of, centers, np.int64(80), np.int32(13), np.int32(16), out, lengths
    )  # fmt: skip
    gaps = rows[picks] - centers[of]
    np.testing.assert_allclose(lengths, np.linalg.norm(gaps.astype(np.float64), axis=1), rtol=1e-6)
    scale = np.divide(np.float32(1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    expected = np.pad((gaps * scale[:, None]).astype(np.float16), ((0, 0), (0, 3)))
    np.testing.assert_array_equal(out.view(np.float16), expected)
    assert (expected[np.abs(expected) > 0] < 6e-5).any()  # subnormal ones too


def test_rows_of_a_cell_searched_twice_are_listed_once(tmp_path):
    vectors, _, offsets, means = shard(tmp_path, *blobs(200, 6))
    runtime = HostRuntime()
    rows = ResidentRows(vectors, runtime)
    products = CellProducts(runtime, 200, 6, len(means), 1 << 20)
    own = np.arange(20, dtype=np.int32)
    empty = [np.full((20, 9), v, t) for v, t in ((np.inf, np.float32), (-1, np.int32)) * 2]
    queries = Queries(rows.gather(own, offsets[:1], offsets[1:2]), own, *empty)
    probed = ProbedCells(offsets[:1], np.diff(offsets)[:1], means[:1], np.zeros((20, 1), np.int32))
    for _ in range(2):
        products.search(queries, rows, probed)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in queries.ids)
