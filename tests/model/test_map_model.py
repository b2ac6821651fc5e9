"""A model answers as brute force on the vectors does, without the source."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.model.map_model import load_model
from nomad_dask.storage.workspace import Workspace
from tests.helpers.runs import blobs, in_batches, make_map

SETTINGS = {"n_epochs": 5, "n_neighbors": 10}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(2500)


def check_neighbors(x, model, metric="euclidean", k=10) -> None:
    distances, indices = model.kneighbors()
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(x.astype(np.float64))
    true, _ = search.kneighbors()
    assert indices.shape == distances.shape == (len(x), k)
    assert (indices != np.arange(len(x))[:, None]).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    # Every distance is that of the row it stands for.
    pairs = x[:, None].astype(np.float64), x[indices].astype(np.float64)
    if metric == "cosine":
        a, b = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in pairs)
        expected = 1 - (a * b).sum(axis=-1)
    else:
        expected = np.linalg.norm(pairs[0] - pairs[1], axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)
    assert (distances <= true[:, -1:] * (1 + 1e-4)).mean() > 0.93


@pytest.mark.parametrize(
    ("settings", "n_batches"),
    [({}, 1), ({"n_shards": 3}, 1), ({"n_shards": 2}, 2), ({"metric": "cosine"}, 1)],
)
def test_positions_cells_and_neighbors(x, tmp_path, settings, n_batches):
    with in_batches(n_batches):
        layout = make_map(x, model=tmp_path / "m", **SETTINGS, **settings)
    model = load_model(tmp_path / "m")
    assert (model.n_rows, model.n_dims, model.n_neighbors) == (*x.shape, 10)
    np.testing.assert_array_equal(model.positions(), layout.positions)
    np.testing.assert_array_equal(model.cell_labels(), layout.cell_labels)
    found = model.to_map()
    np.testing.assert_array_equal(found.positions, layout.positions)
    assert found.metadata == layout.metadata
    assert model.damage() == []
    check_neighbors(x, model, settings.get("metric", "euclidean"))


def test_distances_are_those_of_the_source_where_it_is_rescaled(x, tmp_path):
    far = x.astype(np.float64) * 1e30
    make_map(far, model=tmp_path / "m", **SETTINGS)
    distances, indices = load_model(tmp_path / "m").kneighbors()
    expected = np.linalg.norm((far[:, None] - far[indices]) / 1e30, axis=-1)
    np.testing.assert_allclose(distances / 1e30, expected, rtol=1e-4)


def test_the_map_is_the_same_without_a_model(x, tmp_path):
    settings = SETTINGS | {"n_shards": 2}
    plain = make_map(x, workspace=tmp_path / "w", **settings)
    with_model = make_map(x, model=tmp_path / "m", **settings)
    np.testing.assert_array_equal(plain.positions, with_model.positions)
    assert not any(
        "lists" in name for record in Workspace(tmp_path / "w").stages().values() for name in record.artifacts
    )


def test_a_finished_run_writes_a_model_later(x, tmp_path):
    """What the model needs and the run has removed is made again, and the map stays as it is."""
    settings = SETTINGS | {"n_shards": 2, "workspace": tmp_path / "w"}
    before = make_map(x, **settings)
    after = make_map(x, model=tmp_path / "m", **settings)
    np.testing.assert_array_equal(before.positions, after.positions)
    direct = make_map(x, model=tmp_path / "direct", **(settings | {"workspace": None}))
    np.testing.assert_array_equal(direct.positions, after.positions)
    models = [load_model(tmp_path / name) for name in ("m", "direct")]
    assert models[0].manifest.artifacts == models[1].manifest.artifacts


def test_a_model_outlives_its_workspace_and_moves(x, tmp_path):
    make_map(x, model=tmp_path / "m", workspace=tmp_path / "w", **SETTINGS)
    shutil.rmtree(tmp_path / "w")
    shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    check_neighbors(x, load_model(tmp_path / "elsewhere"))


def test_fewer_neighbors_and_the_graph(x, tmp_path):
    make_map(x, model=tmp_path / "m", **SETTINGS)
    model = load_model(tmp_path / "m")
    distances, indices = model.kneighbors()
    fewer = model.kneighbors(n_neighbors=4, return_distance=False)
    np.testing.assert_array_equal(fewer, indices[:, :4])
    graph = model.kneighbors_graph(mode="distance")
    rows = np.repeat(np.arange(len(x)), 10)
    np.testing.assert_array_equal(graph.toarray()[rows, indices.ravel()], distances.ravel())
    assert graph.nnz == 10 * len(x)
    assert set(model.kneighbors_graph(4).data) == {1.0}
    assert model.kneighbors_graph(4).nnz == 4 * len(x)


@pytest.mark.parametrize("n_neighbors", [0, -1, 11, 1.5, True, "ten"])
def test_lengths_out_of_range(x, tmp_path, n_neighbors):
    make_map(x[:60], model=tmp_path / "m", **SETTINGS)
    with pytest.raises(InputError, match=f"n_neighbors={n_neighbors!r}"):
        load_model(tmp_path / "m").kneighbors(n_neighbors=n_neighbors)


def test_mode_of_the_graph(x, tmp_path):
    make_map(x[:60], model=tmp_path / "m", **SETTINGS)
    with pytest.raises(InputError, match=r"mode='both'.*'connectivity' or 'distance'"):
        load_model(tmp_path / "m").kneighbors_graph(mode="both")


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_few_rows(x, tmp_path, n_rows):
    make_map(x[:n_rows], model=tmp_path / "m", **SETTINGS)
    distances, indices = load_model(tmp_path / "m").kneighbors()
    assert distances.shape == indices.shape == (n_rows, n_rows - 1)
    assert all(set(row) == set(range(n_rows)) - {i} for i, row in enumerate(indices.tolist()))


def test_an_existing_model_is_replaced_only_with_overwrite(x, tmp_path):
    make_map(x[:60], model=tmp_path / "m", **SETTINGS)
    with pytest.raises(InputError, match=r"model '.*m' exists"):
        make_map(x[:70], model=tmp_path / "m", **SETTINGS)
    assert load_model(tmp_path / "m").n_rows == 60
    make_map(x[:70], model=tmp_path / "m", overwrite=True, **SETTINGS)
    assert load_model(tmp_path / "m").n_rows == 70


def test_a_model_beside_the_source_or_the_output_does_not_replace_them(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match="the source would be lost"):
        make_map(tmp_path / "x.npy", model=tmp_path / "x.npy", overwrite=True, **SETTINGS)
    with pytest.raises(InputError, match="is also"):
        make_map(x, model=tmp_path / "m.parquet", output=tmp_path / "m.parquet", **SETTINGS)


def test_damage_is_named_when_a_model_is_opened(x, tmp_path):
    make_map(x[:60], model=tmp_path / "m", **SETTINGS)
    next((tmp_path / "m").glob("*/lists/0000.distances.npy")).unlink()
    with pytest.raises(InputError, match=r"lists/0000\.distances\.npy is missing"):
        load_model(tmp_path / "m")
    with pytest.raises(MissingInputError, match="no model"):
        load_model(tmp_path / "nothing")
