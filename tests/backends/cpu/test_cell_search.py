"""The primitives of the CPU's neighbour search against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nomad_dask.backends.cpu import cell_search_kernels as kernels
from nomad_dask.backends.cpu.cell_search import CpuCellSearch
from nomad_dask.backends.cpu.pca_filter import principal_axes
from nomad_dask.backends.data import ListLengths, NeighborLists
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import thread_pool


@pytest.fixture
def rows():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2500, 12)) @ rng.normal(size=(12, 150)) + 0.5 * rng.normal(size=(2500, 150))
    return X[np.argsort(X[:, 0])].astype(np.float32)


@pytest.fixture(params=[True, False], ids=["held", "streamed"])
def searcher(request, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    offsets = np.arange(0, 2501, 100)
    means = np.array([rows[a : a + 100].mean(axis=0) for a in offsets[:-1]])
    held = request.param
    vectors = ShardVectors([(tmp_path / "rows.npy", 0, len(rows))], cache_bytes=rows.nbytes if held else 0)
    with thread_pool(2) as pool:
        yield CpuCellSearch(vectors, offsets, means, pool, 0, 1 << 28 if held else 1 << 16)


def true_distances(rows, picked):
    X = rows.astype(np.float64)
    D = ((X[picked, None] - X[None]) ** 2).sum(axis=2)
    D[np.arange(len(picked)), picked] = np.inf
    return D


def test_screen_ranks_count_the_nearer_rows(searcher, rows):
    searcher.build_filter(20)
    picked = np.arange(7, 2500, 250, dtype=np.int32)
    ids, distances = searcher.brute_force(picked, 10)
    searcher.calibrate_filter(picked, ids, distances)
    assert 0 <= searcher.correlation <= 1
    screened = searcher._filtered.gather_projected(np.arange(2500)).astype(np.float64)
    a, b = screened[picked, None], screened[None]
    D = ((a[..., :-1] - b[..., :-1]) ** 2).sum(axis=2) + a[..., -1] ** 2 + b[..., -1] ** 2
    D -= 2 * float(searcher.correlation) * a[..., -1] * b[..., -1]
    D[np.arange(len(picked)), picked] = -np.inf
    expected = (D[:, None, :] < np.take_along_axis(D, ids, axis=1)[..., None] - 1e-3).sum(axis=2) - 1
    assert np.abs(searcher.filter_ranks(picked, ids) - expected).max() <= 1


def test_the_screen_is_a_lower_bound(searcher, rows):
    searcher.build_filter(20)
    screened = searcher._filtered.gather_projected(np.arange(300))
    bounds = ((screened[:, None] - screened[None]) ** 2).sum(axis=2)
    true = ((rows[:300, None] - rows[None, :300]) ** 2).sum(axis=2)
    assert (bounds <= true + 1e-3 * true.mean()).all()


def test_principal_axes_hold_the_variance(rows):
    X = rows - rows.mean(axis=0)
    axes = principal_axes(X, 12, np.random.default_rng(0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-5)
    best = np.linalg.eigvalsh((X.T @ X).astype(np.float64))[-12:].sum()
    assert ((X @ axes) ** 2).sum() >= 0.999 * best


def test_a_round_never_loses_and_keeps_distances_true(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    offsets = np.arange(0, 2501, 100)
    means = rows.reshape(25, 100, 150).mean(axis=1)
    with thread_pool(2) as pool:
        vectors = ShardVectors([(tmp_path / "rows.npy", 0, len(rows))], cache_bytes=rows.nbytes)
        search = CpuCellSearch(vectors, offsets, means, pool, 0, 1 << 28)
        search.build_filter(60)
        ids, distances, _ = search.probe(ListLengths(10), 1, 20, lambda done: None)
        lists = NeighborLists(ids, distances, np.ones(ids.shape, np.uint8))
        new_ids, new_distances, fresh = search.refine(lists, 1, 8, 20)
    assert (new_distances <= distances).all()
    assert new_distances.sum() < distances.sum()
    np.testing.assert_array_equal(fresh == 0, (new_ids[:, :, None] == ids[:, None, :]).any(axis=2))
    D = true_distances(rows, np.arange(50))
    np.testing.assert_allclose(new_distances[:50], np.take_along_axis(D, new_ids[:50], axis=1), rtol=1e-5)


def choose_probes(to_cells, sizes, n_probes, min_rows, width):
    """Return the chosen cells of each query, with the cells tried in descending order."""
    n_queries, n_cells = to_cells.shape
    chosen = np.empty((n_queries, width), np.int32)
    orders = np.arange(n_cells)[None, ::-1].copy()
    of_query = np.zeros(n_queries, np.int64)
    assert kernels.choose_probes(to_cells, orders, of_query, sizes, n_probes, min_rows, chosen)
    return chosen


def test_probes_are_chosen_until_enough_rows():
    to_cells = np.array([[3, 1, 2, 4], [1, 2, 3, 4]], np.float32)
    sizes = np.array([5, 5, 5, 100])
    np.testing.assert_array_equal(choose_probes(to_cells, sizes, 1, 5, 2), [[1, -1], [0, -1]])
    np.testing.assert_array_equal(choose_probes(to_cells, sizes, 2, 12, 4), [[1, 2, 0, 3], [0, 1, 2, 3]])


def test_too_few_columns_for_the_probes_are_reported():
    to_cells = np.array([[3, 1, 2, 4]], np.float32)
    orders, of_query, chosen = np.arange(4)[None], np.zeros(1, np.int64), np.empty((1, 2), np.int32)
    assert not kernels.choose_probes(to_cells, orders, of_query, np.full(4, 5), 1, 20, chosen)


def test_queries_are_grouped_by_the_cells_they_probe():
    chosen = np.array([[2, 0], [0, -1], [2, 1]], np.int32)
    picked, offsets = kernels.group_by_cell(chosen, 4)
    np.testing.assert_array_equal(offsets, [0, 2, 3, 5, 5])
    np.testing.assert_array_equal(picked, [0, 1, 2, 0, 2])


@given(
    distances=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(65, 200)), elements=st.integers(0, 30)),
    n_probes=st.integers(65, 200),
)
def test_many_probes_are_the_first_of_a_stable_sort(distances, n_probes):
    n_probes = min(n_probes, distances.shape[1])
    chosen = choose_probes(distances, np.ones(distances.shape[1], np.int64), n_probes, 1, n_probes)
    np.testing.assert_array_equal(chosen, np.argsort(distances, axis=1, kind="stable")[:, :n_probes])


@given(
    distances=hnp.arrays(np.float32, (3, 40), elements=st.integers(0, 9)),
    cells=hnp.arrays(np.int64, (3, 5), elements=st.integers(0, 39)),
)
def test_ranks_of_cells_are_those_of_a_stable_sort(distances, cells):
    ranks = np.empty(cells.shape, np.int64)
    kernels.count_nearer(distances, cells, ranks)
    order = np.argsort(distances, axis=1, kind="stable")
    np.testing.assert_array_equal(np.take_along_axis(order, ranks, axis=1), cells)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("n_probes", [3, 70])
def test_probes_are_cells_whatever_the_distances(value, n_probes):
    distances = np.full((4, 80), value, np.float32)
    distances[1, 5] = 1.0
    chosen = choose_probes(distances, np.ones(80, np.int64), n_probes, n_probes, n_probes)
    assert ((chosen >= 0) & (chosen < 80)).all()
    assert chosen[1, 0] == 5
