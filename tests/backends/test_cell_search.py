"""The primitives of the neighbor search against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nomad_dask.backends.base import Backend, CellSearch
from nomad_dask.backends.data import ListLengths
from nomad_dask.backends.row_reader import ShardVectors
from tests.helpers.host_runtime import is_emulated

N_CELLS = 25


@pytest.fixture
def rows(backend: Backend) -> np.ndarray:
    """Return rows sorted by cell, all cells of the same size."""
    n = 500 if is_emulated(backend) else 1000
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 150)) + 0.5 * rng.normal(size=(n, 150))
    return X[np.argsort(X[:, 0])].astype(np.float32)


@pytest.fixture(params=[True, False], ids=["resident", "streamed"])
def searcher(request, backend, rows, tmp_path, monkeypatch) -> CellSearch:
    np.save(tmp_path / "rows.npy", rows)
    offsets = np.linspace(0, len(rows), N_CELLS + 1).astype(np.int64)
    means = rows.reshape(N_CELLS, -1, rows.shape[1]).mean(axis=1)
    resident = request.param
    if not resident and hasattr(backend, "runtime"):
        monkeypatch.setattr(type(backend.runtime), "free_bytes", lambda _: 1 << 17)
    vectors = ShardVectors([(tmp_path / "rows.npy", 0, len(rows))], cache_bytes=rows.nbytes if resident else 0)
    return backend.create_search(vectors, offsets, means, 0, 1 << 28 if resident else 1 << 16, len(rows))


def true_distances(rows, picked):
    X = rows.astype(np.float64)
    D = ((X[picked, None] - X[None]) ** 2).sum(axis=2)
    D[np.arange(len(picked)), picked] = np.inf
    return D


@pytest.mark.parametrize("n_axes", [None, 20])
def test_brute_force_is_exact_with_any_filter(searcher, rows, n_axes):
    searcher.build_filter(n_axes)
    picked = np.arange(7, len(rows), len(rows) // 10, dtype=np.int32)
    ids, distances = searcher.brute_force(picked, 10)
    D = true_distances(rows, picked)
    order = np.argsort(D, axis=1)[:, :10]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(distances, np.take_along_axis(D, order, axis=1), rtol=1e-5)


@pytest.mark.parametrize("n_axes", [None, 20])
def test_a_search_goes_on_as_before_after_unload(searcher, rows, n_axes):
    searcher.build_filter(n_axes)
    picked = np.arange(7, len(rows), len(rows) // 10, dtype=np.int32)
    searcher.calibrate_filter(picked, *searcher.brute_force(picked, 10))
    can_refine = searcher.can_refine(10)
    first = searcher.probe(ListLengths(10, 4), 2, 30, lambda done: None)
    searcher.unload()
    assert not searcher.vectors.resident
    searcher.load()
    assert searcher.can_refine(10) == can_refine
    for before, after in zip(first, searcher.probe(ListLengths(10, 4), 2, 30, lambda done: None), strict=True):
        np.testing.assert_array_equal(after, before)


def test_the_tail_is_every_fourth_of_the_next_rows(searcher, rows):
    searcher.build_filter(None)  # exact, so the candidates are the nearest rows
    k, n_tail = 10, 7
    ids, _, tail = searcher.probe(ListLengths(k, n_tail), searcher.n_cells, 50, lambda done: None)
    picked = np.arange(7, len(rows), len(rows) // 10)
    order = np.argsort(true_distances(rows, picked), axis=1)
    np.testing.assert_array_equal(ids[picked], order[:, :k])
    np.testing.assert_array_equal(tail[picked], order[:, [11, 15, 19, 23, 27, 31, 35]])


def test_a_tail_has_no_row_twice_and_none_of_the_list(searcher, rows):
    searcher.build_filter(20)
    ids, _, tail = searcher.probe(ListLengths(10, 20), 1, 95, lambda done: None)
    assert tail.shape == (len(rows), 20)
    for i in range(0, len(rows), len(rows) // 50):
        found = np.concatenate([ids[i], tail[i][tail[i] >= 0], [i]])
        assert len(np.unique(found)) == len(found)
        assert (np.diff(tail[i] < 0) >= 0).all()


def test_cell_ranks_count_the_nearer_cells(searcher, rows):
    searcher.build_filter(None)
    picked = np.arange(0, len(rows), len(rows) // 25 - 1, dtype=np.int32)
    ids, _ = searcher.brute_force(picked, 5)
    means = rows.reshape(25, -1, 150).mean(axis=1).astype(np.float64)
    to_cells = ((rows[picked, None].astype(np.float64) - means) ** 2).sum(axis=2)
    expected = (to_cells[:, None] < np.take_along_axis(to_cells, ids // (len(rows) // 25), axis=1)[..., None]).sum(
        axis=2
    )
    np.testing.assert_array_equal(searcher.cell_ranks(picked, ids), expected)
