"""A fitted estimator keeps its model, saves it, and is loaded from it."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestNeighbors

from nomad_dask import NomadProjection, load_model
from nomad_dask.errors import InputError
from tests.helpers.runs import blobs


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(900)


@pytest.fixture(scope="module")
def fitted(x) -> NomadProjection:
    return NomadProjection(n_neighbors=8, n_epochs=5).fit(x)


def test_neighbors_after_a_fit(x, fitted):
    distances, indices = fitted.kneighbors()
    true, expected = NearestNeighbors(n_neighbors=8).fit(x).kneighbors()
    np.testing.assert_array_equal(indices, expected)  # so few rows are searched exhaustively
    np.testing.assert_allclose(distances, true, rtol=1e-4)
    np.testing.assert_array_equal(fitted.kneighbors(n_neighbors=3, return_distance=False), expected[:, :3])
    assert (fitted.kneighbors_graph() != NearestNeighbors(n_neighbors=8).fit(x).kneighbors_graph()).nnz == 0


def test_saved_and_loaded(x, fitted, tmp_path):
    assert fitted.save(tmp_path / "m") == tmp_path / "m"
    loaded = NomadProjection.load(tmp_path / "m")
    assert loaded.get_params() == fitted.get_params()
    for name in ("embedding_", "cell_labels_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    for name in ("diagnostics_", "n_epochs_", "n_features_in_", "seed_", "is_complete_"):
        assert getattr(loaded, name) == getattr(fitted, name)
    np.testing.assert_array_equal(loaded.map_.positions, fitted.map_.positions)
    for ours, theirs in zip(loaded.kneighbors(), fitted.kneighbors(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="exists"):
        fitted.save(tmp_path / "m")
    fitted.save(tmp_path / "m", overwrite=True)
    loaded.save(tmp_path / "m", overwrite=True)  # itself
    assert load_model(tmp_path / "m").damage() == []


def test_the_model_is_where_fit_was_told(x, tmp_path):
    nomad = NomadProjection(n_neighbors=8, n_epochs=5).fit(x, model=tmp_path / "m")
    assert nomad.model_.path == tmp_path / "m"
    revived = pickle.loads(pickle.dumps(nomad))
    np.testing.assert_array_equal(revived.kneighbors()[1], nomad.kneighbors()[1])
    del nomad, revived
    gc.collect()
    assert load_model(tmp_path / "m").n_rows == len(x)


def test_a_temporary_model_lives_as_long_as_what_uses_it(x):
    nomad = NomadProjection(n_epochs=5).fit(x)
    model, directory = nomad.model_, nomad.model_.path
    del nomad
    gc.collect()
    assert model.kneighbors(n_neighbors=1)[0].shape == (len(x), 1)
    del model
    gc.collect()
    assert not directory.parent.exists()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda nomad: pickle.loads(pickle.dumps(nomad))])
def test_a_copy_finds_a_temporary_model_while_it_exists(x, copied):
    nomad = NomadProjection(n_epochs=5).fit(x)
    other = copied(nomad)
    np.testing.assert_array_equal(other.embedding_, nomad.embedding_)
    np.testing.assert_array_equal(other.kneighbors()[1], nomad.kneighbors()[1])
    directory = nomad.model_.path
    del other
    gc.collect()
    assert directory.exists()
    other = copied(nomad)
    del nomad
    gc.collect()
    with pytest.raises(InputError, match="save the model and use load"):
        other.kneighbors()


def test_before_a_fit(tmp_path):
    with pytest.raises(NotFittedError):
        NomadProjection().kneighbors()
    with pytest.raises(NotFittedError):
        NomadProjection().save(tmp_path / "m")


def test_another_fit_replaces_the_model(x, tmp_path):
    nomad = NomadProjection(n_epochs=5, n_neighbors=8).fit(x)
    first = nomad.model_.path
    nomad.fit(x[:100])
    assert nomad.kneighbors()[0].shape == (100, 8)
    gc.collect()
    assert not first.parent.exists()


def test_a_refused_model_leaves_the_last_fit(x, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    nomad = NomadProjection(n_epochs=5).fit(x)
    before = nomad.embedding_
    with pytest.raises(InputError, match="directory of other files"):
        nomad.fit(x[:100], model=tmp_path)
    assert nomad.embedding_ is before
    assert (tmp_path / "notes.txt").read_text() == "mine"
