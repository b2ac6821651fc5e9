"""Rows that join a model and leave it: afterwards it is what a model of these rows would be."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import shuffle

from nomad_dask import NomadProjection, load_model, read_map
from nomad_dask.callbacks.events import EpochDone
from nomad_dask.errors import InputError, MissingInputError, WorkspaceError
from nomad_dask.metrics import score
from nomad_dask.model.map_model import MapModel
from nomad_dask.pipeline.options import ClusterOptions
from nomad_dask.storage.lock import hold_lock
from nomad_dask.storage.model_folder import MODEL_MANIFEST
from tests.helpers.processes import command_line, kill_tree, run_nomad, wait_until
from tests.helpers.runs import blobs, make_map
from tests.model.test_map_model import check_neighbors

SETTINGS = {"n_epochs": 60, "n_neighbors": 10}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(3000, n_blobs=6)


@pytest.fixture(scope="module")
def original(x, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("original") / "m"
    make_map(x[:2700], model=path, **SETTINGS)
    return path


@pytest.fixture
def model(original, tmp_path) -> MapModel:
    shutil.copytree(original, tmp_path / "m")
    return load_model(tmp_path / "m")


def correlations(before: np.ndarray, after: np.ndarray) -> list[float]:
    return [float(np.corrcoef(before[:, axis], after[:, axis])[0, 1]) for axis in range(before.shape[1])]


def test_ten_updates_that_double_the_rows_keep_the_quality_of_a_fit(tmp_path):
    """At least 0.95 of a fit's neighbors are kept, and the map stays where it was."""
    x, _ = shuffle(*load_digits(return_X_y=True), random_state=0)
    make_map(x[:900], model=tmp_path / "m")
    model = load_model(tmp_path / "m")
    first = model.positions()
    for part in np.array_split(x[900:], 10):
        model = model.update(part)
    assert model.n_rows == len(x)
    fresh = make_map(x).positions
    ours, theirs = (score(x, positions).neighbors[10].value for positions in (model.positions(), fresh))
    assert ours > 0.95 * theirs
    assert min(correlations(first, model.positions()[:900])) > 0.95


def test_an_updated_model_answers_as_brute_force_does(x, model):
    before = model.positions()
    updated = model.update(x[2700:])
    assert (updated.n_rows, updated.params) == (3000, model.params)
    assert updated.damage() == []
    check_neighbors(x, updated)
    assert min(correlations(before, updated.positions()[:2700])) > 0.99
    np.testing.assert_array_equal(updated.transform(x[:50]).positions, updated.positions()[:50])
    assert sorted(p.name for p in updated.path.iterdir()) == ["generation-000002", MODEL_MANIFEST]


def test_a_new_topic_finds_a_place_of_its_own(x, model):
    topic = (30 + np.random.default_rng(0).normal(size=(300, x.shape[1]))).astype(np.float32)
    positions = model.update(topic).positions()
    distances = np.linalg.norm(positions[:2700, None] - positions[2700:].mean(axis=0), axis=2)
    width = np.linalg.norm(positions[2700:] - positions[2700:].mean(axis=0), axis=1)
    # Rows of other topics are outside of the circle around nine tenths of its rows.
    assert (distances > np.quantile(width, 0.9)).mean() > 0.99


def test_frozen_rows_do_not_move(x, model):
    before, placed = model.positions(), model.transform(x[2700:]).positions
    updated = model.update(x[2700:], freeze=True)
    np.testing.assert_array_equal(updated.positions(), np.concatenate([before, placed]))
    check_neighbors(x, updated)


@pytest.mark.parametrize("settings", [{"n_shards": 3}, {"metric": "cosine", "n_components": 3}])
def test_updates_go_on_from_each_other(x, tmp_path, settings):
    make_map(x[:2000], model=tmp_path / "m", **SETTINGS, **settings)
    model = load_model(tmp_path / "m").update(x[2000:2500]).update(x[2500:])
    assert model.positions().shape == (3000, settings.get("n_components", 2))
    check_neighbors(x, model, settings.get("metric", "euclidean"))


def test_vectors_of_an_unusual_range(tmp_path):
    x = blobs(800).astype(np.float64) * 1e-25 + 3e-20
    make_map(x[:700], model=tmp_path / "m", **SETTINGS)
    distances, indices = load_model(tmp_path / "m").update(x[700:]).kneighbors()
    expected = np.linalg.norm(x[:, None] - x[indices], axis=2)
    np.testing.assert_allclose(distances, expected, rtol=1e-3)


def test_removed_rows_are_gone_and_the_others_stay(x, model):
    gone = np.array([2699, 0, 17, 17, 1500])
    expected = np.delete(model.positions(), gone, axis=0)
    left = model.remove(gone)
    np.testing.assert_array_equal(left.positions(), expected)
    check_neighbors(np.delete(x[:2700], gone, axis=0), left)
    assert left.update(x[2700:2710]).n_rows == 2696 + 10


def test_the_estimator_is_that_of_all_rows(x):
    nomad = NomadProjection(**SETTINGS).fit(x[:2700])
    first = nomad.embedding_
    assert nomad.update(x[2700:]) is nomad
    assert nomad.embedding_.shape == (3000, 2)
    assert min(correlations(first, nomad.embedding_[:2700])) > 0.99
    np.testing.assert_array_equal(nomad.map_.positions, nomad.embedding_)
    assert nomad.kneighbors()[1].shape == (3000, 10)
    kept = nomad.remove(range(2700)).embedding_
    assert (kept.shape, nomad.cell_labels_.shape) == ((300, 2), (300,))


def test_known_neighbors_of_the_rows_before_are_searched_anew(x):
    search = NearestNeighbors(n_neighbors=10).fit(x[:2700])
    nomad = NomadProjection(**SETTINGS, precomputed_knn=search.kneighbors()[::-1]).fit(x[:2700])
    check_neighbors(x, nomad.update(x[2700:]).model_)


def test_kind_of_input_and_processes_do_not_matter(x, model, tmp_path):
    shutil.copytree(model.path, tmp_path / "other")
    np.save(tmp_path / "new.npy", x[2700:])
    expected = model.update(x[2700:]).positions()
    other = load_model(tmp_path / "other").update(tmp_path / "new.npy", cluster=ClusterOptions(n_workers=2))
    np.testing.assert_array_equal(other.positions(), expected)


@pytest.mark.parametrize("epoch", [1, 30])
def test_a_stopped_update_leaves_the_model_and_is_resumed(x, model, tmp_path, epoch):
    shutil.copytree(model.path, tmp_path / "undisturbed")
    expected = load_model(tmp_path / "undisturbed").update(x[2700:]).positions()
    before = model.positions()

    def stop(event):
        if isinstance(event, EpochDone) and event.epoch == epoch:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.update(x[2700:], emit=stop)
    left = load_model(model.path)
    np.testing.assert_array_equal(left.positions(), before)
    updated = left.update(x[2700:])
    np.testing.assert_array_equal(updated.positions(), expected)
    assert sorted(p.name for p in model.path.iterdir()) == ["generation-000002", MODEL_MANIFEST]


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_a_killed_update_leaves_the_old_model_or_the_new_one(x, model, tmp_path, seconds):
    shutil.copytree(model.path, tmp_path / "undisturbed")
    np.save(tmp_path / "new.npy", x[2700:])
    expected = load_model(tmp_path / "undisturbed").update(tmp_path / "new.npy").positions()
    before = model.positions()
    with command_line("update", model.path, tmp_path / "new.npy", "--quiet") as running:
        wait_until(lambda: (model.path / "update").exists() or running.poll() is not None, what="the update")
        time.sleep(seconds)
        kill_tree(running.pid)
    left = load_model(model.path)
    assert left.damage() == []
    if left.n_rows == 2700:
        np.testing.assert_array_equal(left.positions(), before)
        left = left.update(tmp_path / "new.npy")
    np.testing.assert_array_equal(left.positions(), expected)


def test_bad_input_leaves_the_model_as_it_was(x, model):
    state = (model.path / MODEL_MANIFEST).read_bytes()
    broken = x[2700:].copy()
    broken[3, 2] = np.nan
    for new, message in [(broken, "row 3, column 2"), (x[:5, :7], "7 dimensions"), (x[:0], "0 sample")]:
        with pytest.raises(InputError, match=message):
            model.update(new)
    for rows, message in [
        ([2700], "rows has 2700: the model has 2700 rows"),
        ([-1], "rows has -1"),
        ([0.5], "dtype float64"),
        ([], "rows is empty"),
        ([[1, 2], [3]], "rows is no array"),
        (["a"], "dtype"),
    ]:
        with pytest.raises(InputError, match=message):
            model.remove(rows)
    with pytest.raises(InputError):
        model.remove(np.arange(2700))
    assert (model.path / MODEL_MANIFEST).read_bytes() == state
    assert load_model(model.path).damage() == []


def test_two_updates_at_once_are_refused(x, model):
    with hold_lock(model.path), pytest.raises(WorkspaceError, match="in use by process"):
        model.update(x[2700:])
    shutil.rmtree(model.path)
    with pytest.raises(MissingInputError, match="There is no model"):
        model.update(x[2700:])
    assert not model.path.exists()


def test_on_the_command_line(x, model, tmp_path):
    np.save(tmp_path / "new.npy", x[2700:])
    out = tmp_path / "all.parquet"
    done = run_nomad("update", model.path, tmp_path / "new.npy", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": str(model.path), "map": str(out), "rows": 3000, "rows_before": 2700}
    assert len(read_map(out)) == 3000
    pd.DataFrame({"row": [5, 2999]}).to_parquet(tmp_path / "rows.parquet")
    pd.DataFrame({"number": [5]}).to_parquet(tmp_path / "other.parquet")
    refused = run_nomad("remove", model.path, tmp_path / "other.parquet")
    assert (refused.returncode, "has no column 'row'" in refused.stderr) == (2, True)
    done = run_nomad("remove", model.path, tmp_path / "rows.parquet")
    assert (done.returncode, done.stdout.strip()) == (0, str(model.path)), done.stderr
    expected = np.delete(read_map(out).positions, [5, 2999], axis=0)
    np.testing.assert_array_equal(load_model(model.path).positions(), expected)
