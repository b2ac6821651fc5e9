"""The neighbors of new rows are those of brute force, whatever brings the rows and wherever they are searched for."""

from __future__ import annotations

from pathlib import Path

import dask.array
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from nomad_dask import NomadProjection, load_model
from nomad_dask.errors import InputError
from nomad_dask.model.map_model import MapModel
from nomad_dask.pipeline.options import ClusterOptions
from tests.helpers.runs import blobs, make_map

SETTINGS = {"n_epochs": 2, "n_neighbors": 10}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(4000)


@pytest.fixture(scope="module")
def new(x) -> np.ndarray:
    """Rows near those of the map, and two that are equal to one of them."""
    rng = np.random.default_rng(1)
    rows = x[rng.integers(len(x), size=300)] + rng.normal(size=(300, x.shape[1])).astype(np.float32) / 2
    rows[[7, 200]] = x[123]
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def model(x, tmp_path_factory) -> MapModel:
    path = tmp_path_factory.mktemp("model") / "m"
    make_map(x, model=path, n_shards=2, **SETTINGS)
    return load_model(path)


def recall(indices: np.ndarray, x: np.ndarray, new: np.ndarray, metric: str = "euclidean") -> float:
    """Return the share of the true neighbors that were found."""
    k = indices.shape[1]
    true = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(x).kneighbors(new)[1]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(indices, true, strict=True)]))


def test_neighbors_and_distances(x, new, model):
    distances, indices = model.kneighbors(new)
    assert indices.shape == distances.shape == (300, 10)
    assert recall(indices, x, new) > 0.97
    expected = np.linalg.norm(new[:, None].astype(np.float64) - x[indices], axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-6)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert (indices[[7, 200], 0] == 123).all()
    assert not distances[[7, 200], 0].any()


@pytest.mark.parametrize("k", [1, 40, 4000])
def test_more_or_fewer_neighbors_than_are_stored(x, new, model, k):
    distances, indices = model.kneighbors(new[:20], n_neighbors=k)
    assert indices.shape == (20, k)
    assert np.isfinite(distances).all()
    assert (np.sort(indices, axis=1)[:, 1:] > np.sort(indices, axis=1)[:, :-1]).all()
    if k == 4000:
        np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(4000), (20, 1)))


def test_any_input_and_any_blocks_give_the_same(new, model, tmp_path, monkeypatch):
    expected = model.kneighbors(new)
    np.save(tmp_path / "new.npy", new)
    pd.DataFrame({"v": list(new)}).to_parquet(tmp_path / "new.parquet", row_group_size=70)
    order = np.random.default_rng(2).permutation(300)
    monkeypatch.setattr("nomad_dask.model.search._BLOCK_BYTES", 40 * 4 * new.shape[1])
    inputs = [
        (new, None), (tmp_path / "new.npy", None), (str(tmp_path / "new.parquet"), "v"), (pd.DataFrame(new), None),
        (dask.array.from_array(new, chunks=(90, -1)), None),
    ]  # fmt: skip
    for given, column in inputs:
        for a, b in zip(model.kneighbors(given, column=column), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(model.kneighbors(new[order]), expected, strict=True):
        np.testing.assert_array_equal(a, b[order])


def test_worker_processes_give_the_same(new, model):
    expected = model.kneighbors(new)
    for a, b in zip(model.kneighbors(new, cluster=ClusterOptions(n_workers=2)), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_little_memory_gives_the_same(new, model):
    expected = model.kneighbors(new)
    limited = model.kneighbors(new, cluster=ClusterOptions(memory_limit="200KB"))
    for a, b in zip(limited, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cosine(x, new, tmp_path):
    make_map(x, model=tmp_path / "m", metric="cosine", **SETTINGS)
    scaled = new * np.random.default_rng(3).uniform(0.1, 9, (300, 1)).astype(np.float32)
    distances, indices = load_model(tmp_path / "m").kneighbors(scaled)
    assert recall(indices, x, new, "cosine") > 0.97
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (new[:, None].astype(np.float64), x[indices]))
    np.testing.assert_allclose(distances, 1 - (a * b).sum(axis=-1), atol=1e-5)


def test_rows_of_an_unusual_range_are_rescaled_as_those_of_the_map(x, new, tmp_path):
    make_map(x.astype(np.float64) * 1e30, model=tmp_path / "m", **SETTINGS)
    distances, indices = load_model(tmp_path / "m").kneighbors(new.astype(np.float64) * 1e30)
    assert recall(indices, x, new) > 0.97
    expected = np.linalg.norm(new[:, None].astype(np.float64) - x[indices], axis=-1)
    np.testing.assert_allclose(distances / 1e30, expected, rtol=1e-4)


def test_from_a_fitted_estimator(x, new):
    nomad = NomadProjection(**SETTINGS).fit(x)
    indices = nomad.kneighbors(new, return_distance=False)
    assert recall(indices, x, new) > 0.97


def test_rows_that_cannot_be_compared_are_named(new, model):
    with pytest.raises(InputError, match=r"has 7 dimensions, the rows of the model have 20"):
        model.kneighbors(new[:, :7])
    broken = new.copy()
    broken[150, 3] = np.nan
    with pytest.raises(InputError, match="row 150, column 3"):
        model.kneighbors(broken)
    broken[150, 3] = 1e30
    with pytest.raises(InputError, match=r"Row 150 .* values up to 1e\+30"):
        model.kneighbors(broken)
    with pytest.raises(InputError, match="n_neighbors=4001 is out of range: the model has 4000 rows"):
        model.kneighbors(new, n_neighbors=4001)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_a_map_of_few_rows(x, new, tmp_path, n_rows):
    make_map(x[:n_rows], model=Path(tmp_path / "m"), **SETTINGS)
    distances, indices = load_model(tmp_path / "m").kneighbors(new[:5], n_neighbors=n_rows)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(n_rows), (5, 1)))
    assert (np.diff(distances, axis=1) >= 0).all()
