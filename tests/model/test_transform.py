"""New rows land where a fit would have put them: among their neighbors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor, NearestNeighbors
from sklearn.utils import shuffle

from nomad_dask import NomadProjection, load_model, read_map
from nomad_dask.errors import InputError
from nomad_dask.model.map_model import MapModel
from nomad_dask.model.placement import median_positions, spread_equal
from nomad_dask.pipeline.options import ClusterOptions
from tests.helpers.processes import run_nomad
from tests.helpers.runs import blobs, make_map


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(3000, n_blobs=6)


@pytest.fixture(scope="module")
def fitted(x) -> np.ndarray:
    return x[:2700]


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory) -> MapModel:
    path = tmp_path_factory.mktemp("model") / "m"
    make_map(fitted, model=path, n_epochs=150)
    return load_model(path)


def kept_neighbors(vectors, of_map, positions, of_positions, k=10) -> float:
    """Return the share of the nearest rows of a map by vectors that are among the nearest by position."""
    by_vector, by_position = (
        NearestNeighbors(n_neighbors=k).fit(target).kneighbors(query, return_distance=False)
        for target, query in ((of_map, vectors), (of_positions, positions))
    )
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(by_vector, by_position, strict=True)]))


def test_new_digits_land_as_fitted_ones_do(tmp_path):
    """They keep nine tenths of the neighbors that fitted rows keep, and as many have the label of those around them."""
    x, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
    make_map(x[:1600], model=tmp_path / "m")
    model = load_model(tmp_path / "m")
    maps = [(model.positions(), model.transform(x[1600:]).positions)]
    whole = make_map(x).positions
    maps.append((whole[:1600], whole[1600:]))
    ours, theirs = (kept_neighbors(x[1600:], x[:1600], new, fitted) for fitted, new in maps)
    assert ours > 0.9 * theirs
    ours, theirs = (
        KNeighborsClassifier(10).fit(fitted, labels[:1600]).score(new, labels[1600:]) for fitted, new in maps
    )
    assert ours > theirs - 0.02


def test_rows_of_the_map_get_their_positions(fitted, model):
    order = np.random.default_rng(0).permutation(len(fitted))[:500]
    placed = model.transform(fitted[order])
    np.testing.assert_array_equal(placed.positions, model.positions()[order])
    np.testing.assert_array_equal(placed.column("cell"), model.cell_labels()[order])
    assert not np.asarray(placed.column("distance")).any()


def test_order_blocks_and_processes_do_not_matter(x, model, monkeypatch):
    new = np.concatenate([x[2700:], x[2700:2702]])
    expected = model.transform(new).positions
    order = np.random.default_rng(1).permutation(len(new) - 2)
    np.testing.assert_array_equal(
        model.transform(new[:-2][order]).positions, model.transform(new[:-2]).positions[order]
    )
    monkeypatch.setattr("nomad_dask.model.search._BLOCK_BYTES", 50 * 4 * new.shape[1])
    np.testing.assert_array_equal(model.transform(new).positions, expected)
    np.testing.assert_array_equal(model.transform(new, cluster=ClusterOptions(n_workers=2)).positions, expected)


def test_equal_rows_do_not_pile_up(x, model):
    positions = model.transform(np.repeat(x[2700:2701], 1000, axis=0)).positions
    assert len(np.unique(positions, axis=0)) == 1000
    nearest = NearestNeighbors(n_neighbors=1).fit(positions).kneighbors()[0]
    assert np.median(nearest) > 0.05
    # But they stay together.
    assert np.ptp(positions, axis=0).max() < np.ptp(model.positions(), axis=0).max() / 3


def test_rows_far_from_all_others_are_told(x, fitted, model):
    new = np.concatenate([x[2700:], 40 + np.random.default_rng(2).normal(size=(5, x.shape[1]))]).astype(np.float32)
    placed = model.transform(new)
    scores, distances = (np.asarray(placed.column(name)) for name in ("outlier", "distance"))
    assert scores[-5:].min() > 5 * np.quantile(scores[:-5], 0.99)
    reference = -LocalOutlierFactor(n_neighbors=15, novelty=True).fit(fitted).score_samples(new[:-5])
    assert np.corrcoef(reference, scores[:-5])[0, 1] > 0.9
    true = NearestNeighbors(n_neighbors=1).fit(fitted).kneighbors(new)[0][:, 0]
    np.testing.assert_allclose(distances, true, rtol=1e-3)


def test_columns_of_the_input_are_carried_along(x, model, tmp_path):
    frame = pd.DataFrame({"name": [f"row {i}" for i in range(300)], "v": list(x[2700:])})
    placed = model.transform(frame, column="v", metadata_columns=["name"])
    assert placed.columns == ["x", "y", "cell", "distance", "outlier", "name"]
    assert placed.column("name").to_pylist() == frame["name"].tolist()
    placed.to_parquet(tmp_path / "new.parquet")
    np.testing.assert_array_equal(read_map(tmp_path / "new.parquet").positions, placed.positions)


def test_the_estimator_transforms(x, fitted):
    nomad = NomadProjection(n_epochs=100).fit(fitted)
    np.testing.assert_array_equal(nomad.transform(fitted), nomad.embedding_)
    new = nomad.transform(x[2700:])
    assert (new.dtype, new.shape) == (np.float32, (300, 2))
    np.testing.assert_array_equal(new, nomad.model_.transform(x[2700:]).positions)
    with pytest.raises(ValueError, match="X has 7 features, but NomadProjection is expecting 20 features"):
        nomad.transform(x[:, :7])


def test_three_dimensions_and_cosine(x, fitted, tmp_path):
    make_map(fitted, model=tmp_path / "m", n_epochs=50, n_components=3, metric="cosine")
    model = load_model(tmp_path / "m")
    assert model.transform(x[2700:]).positions.shape == (300, 3)
    np.testing.assert_array_equal(model.transform(fitted[:100]).positions, model.positions()[:100])


@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_map_of_few_rows(x, tmp_path, n_rows):
    make_map(x[:n_rows], model=tmp_path / "m", n_epochs=3)
    positions = load_model(tmp_path / "m").transform(x[10:15]).positions
    assert np.isfinite(positions).all()


def test_on_the_command_line(x, model, tmp_path):
    np.save(tmp_path / "new.npy", x[2700:])
    out = tmp_path / "new.parquet"
    done = run_nomad("transform", model.path, tmp_path / "new.npy", "-o", out, "--json")
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 300), done.stderr
    np.testing.assert_array_equal(read_map(out).positions, model.transform(x[2700:]).positions)
    assert pq.read_schema(out).names == ["x", "y", "cell", "distance", "outlier"]
    again = run_nomad("transform", model.path, tmp_path / "new.npy", "-o", out)
    assert again.returncode == 2
    assert "exists" in again.stderr
    missing = run_nomad("transform", tmp_path / "nothing", tmp_path / "new.npy", "-o", tmp_path / "b.parquet")
    assert missing.returncode == 2
    assert "There is no model" in missing.stderr


def test_rows_that_cannot_be_placed_are_named(x, model):
    broken = x[2700:].copy()
    broken[3, 2] = np.inf
    with pytest.raises(InputError, match="row 3, column 2"):
        model.transform(broken)
    with pytest.raises(InputError, match="0 sample"):
        model.transform(x[:0])


@given(
    neighbors=hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.integers(0, 19)),
    n_missing=st.integers(0, 5),
)
def test_medians_leave_missing_neighbors_out(neighbors, n_missing):
    stored = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    n_found = max(1, neighbors.shape[1] - n_missing)
    neighbors[:, n_found:] = -1
    expected = np.median(stored[neighbors[:, :n_found]], axis=1)
    np.testing.assert_allclose(median_positions(stored, neighbors), expected, rtol=1e-6)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.sampled_from([2, 3])), elements=st.integers(-2, 2)))
def test_equal_positions_are_spread_and_others_stay(start):
    spread = spread_equal(start)
    _, firsts, counts = np.unique(start, axis=0, return_index=True, return_counts=True)
    np.testing.assert_array_equal(spread[firsts], start[firsts])
    assert len(np.unique(spread, axis=0)) == len(start)
    assert np.linalg.norm(spread - start, axis=1).max(initial=0) <= 0.1 * np.sqrt(max(counts, default=0)) + 1e-6


def test_a_model_that_is_read_only_is_enough(x, model, tmp_path):
    """Nothing is written to a model by those who ask it."""
    before = {path: path.stat().st_mtime_ns for path in Path(model.path).rglob("*")}
    model.transform(x[2700:2710])
    model.kneighbors(x[2700:2710])
    assert {path: path.stat().st_mtime_ns for path in Path(model.path).rglob("*")} == before
