"""The nearest stored rows of new rows are those of brute force in their cells, for each row on its own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.data import NewRows, StoredRows
from nomad_dask.backends.row_reader import ShardVectors


def stored_rows(x: np.ndarray, sizes: np.ndarray, path: Path, cached: bool = True) -> StoredRows:
    np.save(path, x)
    vectors = ShardVectors([(path, 0, len(x))], "euclidean", 1 << 30)
    if cached:
        vectors.load()
    offsets = np.append(0, np.cumsum(sizes))
    centroids = [x[a:b].mean(axis=0) if a < b else np.zeros(x.shape[1]) for a, b in pairwise(offsets)]
    return StoredRows(vectors, offsets, np.array(centroids, np.float32))


def in_groups(q: np.ndarray, sizes: list[int], probed: np.ndarray) -> NewRows:
    return NewRows(q, np.append(0, np.cumsum(sizes)), probed)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, NewRows, int]:
    """Stored rows in cells, of which some are empty or equal, and groups of new rows."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    sizes = np.array(draw(st.lists(st.integers(0, 9), min_size=1, max_size=6)))
    d = draw(st.sampled_from([1, 3, 64, 70, 200]))
    x = rng.normal(size=(sizes.sum(), d)).astype(np.float32)
    if draw(st.booleans()):
        x = x.round()  # equal distances
    groups = draw(st.lists(st.integers(0, 4), min_size=0, max_size=4))
    q = rng.normal(size=(sum(groups), d)).astype(np.float32).round()
    n_probes = draw(st.integers(1, len(sizes)))
    probed = np.array([rng.permutation(len(sizes))[:n_probes] for _ in groups], np.int32).reshape(-1, n_probes)
    return x, sizes, in_groups(q, groups, probed), draw(st.integers(1, 12))


@given(case=cases())
def test_equal_brute_force(backend, tmp_path_factory, case):
    x, sizes, new, k = case
    stored = stored_rows(x, sizes, tmp_path_factory.mktemp("stored") / "x.npy")
    done: list[int] = []
    ids, distances = backend.search_new_rows(stored, new, k, done.append)
    assert ids.shape == distances.shape == (len(new.vectors), k)
    assert max(done, default=0) == len(new.vectors)
    for group in range(len(new.probed_cells)):
        cells = new.probed_cells[group]
        rows = np.concatenate([np.arange(stored.cell_offsets[c], stored.cell_offsets[c + 1]) for c in sorted(cells)])
        for i in range(new.offsets[group], new.offsets[group + 1]):
            squares = ((new.vectors[i].astype(np.float64) - x[rows]) ** 2).sum(axis=1)
            n = min(k, len(rows))
            np.testing.assert_allclose(distances[i, :n], np.sort(squares)[:n], rtol=1e-5)
            assert np.isinf(distances[i, n:]).all()
            assert (ids[i, n:] == -1).all()
            assert len(set(ids[i, :n])) == n
            found = dict(zip(rows.tolist(), squares, strict=True))
            np.testing.assert_allclose([found[j] for j in ids[i, :n].tolist()], distances[i, :n], rtol=1e-5)


def test_of_equal_rows_the_first_are_found(backend, tmp_path):
    x = np.ones((500, 8), np.float32)
    stored = stored_rows(x, np.full(10, 50), tmp_path / "x.npy")
    new = in_groups(np.ones((3, 8), np.float32), [3], np.array([[7, 2, 9]], np.int32))
    ids, distances = backend.search_new_rows(stored, new, 5, lambda n: None)
    np.testing.assert_array_equal(ids, [[100, 101, 102, 103, 104]] * 3)
    assert not distances.any()


@pytest.mark.parametrize("cached", [True, False])
def test_a_row_does_not_depend_on_the_others(backend, tmp_path, cached):
    rng = np.random.default_rng(0)
    x, q = (rng.normal(size=(n, 100)).astype(np.float32) for n in (2000, 60))
    stored = stored_rows(x, np.full(20, 100), tmp_path / "x.npy", cached)
    probed = rng.permutation(20)[None, :12].astype(np.int32)
    together = backend.search_new_rows(stored, in_groups(q, [60], probed), 10, lambda n: None)
    order = rng.permutation(60)
    parts = [40, 1, 19]
    apart = backend.search_new_rows(
        stored, in_groups(q[order], parts, np.repeat(probed[:, ::-1], 3, axis=0)), 10, lambda n: None
    )
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a[order], b)
