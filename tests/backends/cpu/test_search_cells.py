"""Cells of the CPU's neighbor search against NumPy and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from nomad_dask.backends.cell_index import mean_probed_rows
from nomad_dask.backends.cpu.search_cells import SearchCells, cells_of_parts, split_cells
from nomad_dask.utils.threads import thread_pool

OFFSETS = np.array([0, 400, 430, 1000])


def split(rows: np.ndarray, part_rows: int, n_threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    with thread_pool(n_threads) as pool:
        return split_cells(lambda start, stop: rows[start:stop], OFFSETS, part_rows, pool)


def make_rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(8, 20))[rng.integers(8, size=1000)] + 0.3 * rng.normal(size=(1000, 20))).astype(np.float32)


def test_parts_are_those_of_kmeans_from_the_same_start():
    rows = make_rows()
    labels, _ = split(rows, 50)
    for start, stop in ((0, 400), (430, 1000)):
        part, n_parts = rows[start:stop], round((stop - start) / 50)
        centers = part[(2 * np.arange(n_parts) + 1) * len(part) // (2 * n_parts)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans = KMeans(n_parts, init=centers, n_init=1, max_iter=3, tol=0, algorithm="lloyd").fit(part)
        np.testing.assert_array_equal(labels[start:stop], kmeans.predict(part))
    assert (labels[400:430] == 0).all()


def test_every_row_is_in_one_part_of_its_cell():
    rows = make_rows()
    labels, means = split(rows, 50)
    cells = cells_of_parts(labels, OFFSETS)
    assert len(means) == cells.n_cells
    np.testing.assert_array_equal(np.sort(cells.slice(0, 1000)), np.arange(1000))
    assert (cells.sizes > 0).all()
    for cell in range(cells.n_cells):
        members = cells.rows_of(cell)
        assert (np.diff(members) > 0).all()
        assert len(np.unique(np.searchsorted(OFFSETS, members, side="right"))) == 1
        np.testing.assert_array_equal(cells.cell_of(members), cell)
        np.testing.assert_allclose(means[cell], rows[members].mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_array_equal(cells.cell_of_all_rows(), cells.cell_of(np.arange(1000)))


def test_parts_do_not_depend_on_the_number_of_threads():
    rows = make_rows()
    for one, three in zip(split(rows, 20), split(rows, 20, n_threads=3), strict=True):
        np.testing.assert_array_equal(one, three)


def test_identical_rows_are_not_split():
    cells = cells_of_parts(split(np.ones((1000, 5), np.float32), 10)[0], OFFSETS)
    np.testing.assert_array_equal(cells.offsets, OFFSETS)


def test_whole_cells_have_consecutive_rows():
    cells = SearchCells(OFFSETS)
    np.testing.assert_array_equal(cells.rows_of(1), np.arange(400, 430))
    np.testing.assert_array_equal(cells.cell_of(np.array([0, 399, 400, 999])), [0, 0, 1, 2])
    assert mean_probed_rows(cells.sizes) == (400**2 + 30**2 + 570**2) / 1000
