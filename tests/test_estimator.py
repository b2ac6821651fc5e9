"""`NomadProjection` keeps scikit-learn's conventions, and passes on what it is given."""

from __future__ import annotations

import inspect
import pickle
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nomad_dask import NomadProjection, Params
from nomad_dask.callbacks import EpochDone
from nomad_dask.errors import InputError, WorkspaceError
from tests.helpers.runs import EventLog, blobs, worker_processes

ONE_COMPONENT = "the check sets n_components=1, maps have 2 or 3; passes below where it cannot"
OBJECTS = "arrays of Python objects are refused by name, never cast without a word"
EXPECTED_FAILURES = {
    "check_dont_overwrite_parameters": ONE_COMPONENT,
    "check_methods_sample_order_invariance": ONE_COMPONENT,
    "check_methods_subset_invariance": ONE_COMPONENT,
    "check_fit2d_1sample": ONE_COMPONENT,
    "check_fit2d_1feature": ONE_COMPONENT,
    "check_fit2d_predict1d": ONE_COMPONENT,
    "check_dtype_object": OBJECTS,
}


class TwoDimensional(NomadProjection):
    """Without the parameter that some checks set to 1."""

    def __init__(self, n_epochs=3, random_state=0, repulsion_method="field"):
        self.n_epochs = n_epochs
        self.random_state = random_state
        self.repulsion_method = repulsion_method

    device, client, n_workers, workspace, callbacks, verbose = "auto", None, None, None, None, False
    memory_limit, keep_stages = None, False


def expected_failures(estimator):
    one_component = not isinstance(estimator, TwoDimensional)
    return {check: why for check, why in EXPECTED_FAILURES.items() if one_component or why is not ONE_COMPONENT}


@parametrize_with_checks(
    [NomadProjection(n_epochs=3), TwoDimensional(), TwoDimensional(repulsion_method="means")],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(300, n_dims=6)


@pytest.fixture(scope="module")
def fitted(x: np.ndarray) -> NomadProjection:
    return NomadProjection(n_epochs=20, n_shards=2).fit(x)


def test_a_fit_leaves_what_it_found(x, fitted):
    assert fitted.embedding_.shape == (300, 2)
    assert fitted.embedding_.dtype == np.float32
    assert fitted.cell_labels_.shape == (300,)
    assert fitted.cell_labels_.dtype == np.int32
    assert fitted.n_features_in_ == 6
    assert fitted.seed_ == 0
    assert {"recall", "loss", "imbalance", "exchanged_bytes_per_epoch"} <= fitted.diagnostics_.keys()


def test_fit_transform_is_fit(x, fitted):
    layout = NomadProjection(n_epochs=20, n_shards=2).fit_transform(x)
    np.testing.assert_array_equal(layout, fitted.embedding_)


def test_every_setting_of_the_method_is_a_parameter_with_the_same_default():
    ours, own = Params(), NomadProjection().get_params()
    for f in fields(Params):
        if f.name != "random_state":
            assert own[f.name] == getattr(ours, f.name), f.name
    assert own["random_state"] == ours.random_state


def test_the_docstring_documents_every_parameter_and_attribute(fitted):
    text = inspect.getdoc(NomadProjection)
    parameters, attributes = text.split("\nAttributes\n")[0], text.split("\nAttributes\n")[1]
    for name in NomadProjection().get_params():
        entry = re.search(rf"^{name} : .*\n(    \S.*\n?)+", parameters, re.MULTILINE)
        assert entry, name
    for name, documented in Params.describe().items():
        assert name == "random_state" or documented in parameters
    for name in vars(fitted):
        if name.endswith("_"):
            assert re.search(rf"^{name} : ", attributes, re.MULTILINE), name


def test_parameters_are_kept_as_given_and_cloned():
    given = NomadProjection(7, metric="cosine", n_epochs=3, random_state=5, callbacks=[print])
    assert (given.get_params()["n_neighbors"], given.get_params()["metric"]) == (7, "cosine")
    copy = clone(given)
    assert copy is not given
    assert copy.get_params() == given.get_params()
    assert copy.set_params(n_epochs=9).n_epochs == 9
    assert "n_epochs=3" in repr(given)
    with pytest.raises(ValueError, match="n_neighbours"):
        given.set_params(n_neighbours=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors=0 is out of range: give a whole number from 1 to 1000"),
        ({"n_components": 5}, "n_components=5 is out of range: give a whole number from 2 to 3"),
        ({"metric": "cosin"}, "Did you mean 'cosine'"),
        ({"n_epochs": 2.5}, "n_epochs=2.5"),
        ({"random_state": "a"}, "random_state='a'"),
        ({"random_state": -1}, "random_state=-1 is out of range"),
        ({"random_state": np.int64(-1)}, "random_state=np.int64(-1) is out of range"),
        ({"random_state": True}, "random_state=True"),
        ({"random_state": 1.5}, "random_state=1.5"),
        ({"device": "cpuu"}, "device='cpuu'"),
        ({"n_workers": 0}, "n_workers=0"),
    ],
)
def test_what_is_out_of_range_is_an_input_error_that_names_it(x, wrong, message):
    estimator = NomadProjection(**wrong)  # only a fit looks at them
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        estimator.fit(x)
    assert isinstance(caught.value, InputError)


def test_seeds(x):
    def layout(seed: object) -> np.ndarray:
        return NomadProjection(n_epochs=3, random_state=seed).fit_transform(x)

    of_three = layout(3)
    np.testing.assert_array_equal(layout(np.int64(3)), of_three)
    assert not np.array_equal(of_three, layout(4))
    np.testing.assert_array_equal(layout(np.random.RandomState(1)), layout(np.random.RandomState(1)))
    drawn = NomadProjection(n_epochs=3, random_state=None).fit(x)
    np.testing.assert_array_equal(layout(drawn.seed_), drawn.embedding_)


def test_frames_give_names_and_take_them(x):
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(6)], index=np.arange(300) * 2)
    estimator = NomadProjection(n_epochs=3).set_output(transform="pandas")
    layout = estimator.fit_transform(frame)
    assert list(layout.columns) == ["nomadprojection0", "nomadprojection1"]
    assert list(layout.columns) == list(estimator.get_feature_names_out())
    assert layout.index.equals(frame.index)
    assert list(estimator.feature_names_in_) == list(frame.columns)
    np.testing.assert_array_equal(layout.to_numpy(), estimator.embedding_)
    assert not hasattr(estimator.fit(x), "feature_names_in_")
    estimator.fit(frame.assign(key=range(300)), metadata_columns=["key"])
    assert list(estimator.feature_names_in_) == list(frame.columns)
    assert estimator.n_features_in_ == 6
    estimator.fit(pd.DataFrame({"key": range(300), "vectors": list(x)}))
    assert not hasattr(estimator, "feature_names_in_")
    assert estimator.n_features_in_ == 6


def test_in_a_pipeline(x):
    layout = make_pipeline(StandardScaler(), NomadProjection(n_epochs=3)).fit_transform(x)
    assert layout.shape == (300, 2)


def test_a_fitted_estimator_can_be_pickled(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)
    assert again.get_params() == fitted.get_params()


def test_a_path_is_as_good_as_an_array(x, fitted, tmp_path):
    np.save(tmp_path / "x.npy", x)
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        again = NomadProjection(n_epochs=20, n_shards=2).fit(path)
        np.testing.assert_array_equal(again.embedding_, fitted.embedding_)


def test_a_column_is_chosen_by_name(x):
    frame = pd.DataFrame({"a": list(x), "b": list(x * 2)})
    with pytest.raises(InputError, match="column"):
        NomadProjection(n_epochs=3).fit(frame)
    np.testing.assert_array_equal(
        NomadProjection(n_epochs=3).fit_transform(frame, column="a"), NomadProjection(n_epochs=3).fit_transform(x)
    )


def test_callbacks_hear_every_event(x):
    first, second = EventLog(), EventLog()
    NomadProjection(n_epochs=5, n_shards=2, callbacks=[first, second]).fit(x)
    assert len(first.of(EpochDone)) == 5
    assert first == second


def test_a_workspace_is_taken_up_again(x, tmp_path):
    settings = {"n_epochs": 5, "workspace": tmp_path / "w"}
    first = NomadProjection(**settings).fit(x)
    event_log = EventLog()
    again = NomadProjection(**settings, callbacks=[event_log]).fit(x)
    np.testing.assert_array_equal(again.embedding_, first.embedding_)
    assert event_log.of(EpochDone) == []
    with pytest.raises(WorkspaceError, match="n_neighbors: 15 in the workspace, 9 requested"):
        NomadProjection(9, **settings).fit(x)


def test_a_client_is_used(x, fitted):
    with worker_processes(2) as client:
        again = NomadProjection(n_epochs=20, n_shards=2, client=client).fit(x)
    np.testing.assert_array_equal(again.embedding_, fitted.embedding_)


def test_the_papers_settings(x):
    paper = NomadProjection.paper(n_epochs=20, random_state=3)
    assert (paper.n_neighbors, paper.affinity, paper.random_state) == (8, "softmax-inverse", 3)
    assert np.isfinite(paper.fit_transform(x)).all()


def test_progress_is_shown_on_request_only(x, capfd):
    NomadProjection(n_epochs=3).fit(x)
    assert capfd.readouterr() == ("", "")


def test_a_failed_fit_leaves_nothing_behind(x, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    estimator = NomadProjection(n_epochs=3)
    broken = x.copy()
    broken[5, 2] = np.nan
    with pytest.raises(InputError, match="row 5, column 2"):
        estimator.fit(broken)
    assert not hasattr(estimator, "embedding_")
    assert list(Path(tmp_path).glob("nomad-*")) == []


@pytest.mark.parametrize("name", ["client", "n_epochs", "workspace", "verbose"])
def test_a_parameter_given_to_fit_is_refused_with_its_place(x, name):
    message = (
        rf"fit does not accept {name}=1: give it to the constructor, as in NomadProjection\({name}=...\)\.fit\(X\)"
    )
    for method in (NomadProjection().fit, NomadProjection().fit_transform):
        with pytest.raises(TypeError, match=message):
            method(x, **{name: 1})
    with pytest.raises(TypeError, match="fit does not accept colum='a': Did you mean 'column'"):
        NomadProjection().fit(x, colum="a")
