"""A fit that is stopped: what the estimator has then, and that it goes on to the same map."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from nomad_dask import NomadProjection
from nomad_dask.callbacks import EpochDone, Event, LayoutSnapshot, SnapshotRequest, StageAdvanced, StageFinished
from nomad_dask.errors import InputError, Interrupted, WorkspaceError
from nomad_dask.layout.interrupt import graceful_interrupt
from tests.helpers.processes import wait_until
from tests.helpers.runs import CtrlC, EventLog, blobs

SETTINGS = {"n_epochs": 10, "n_shards": 2}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(600, n_dims=8)


@pytest.fixture(scope="module")
def plain(x: np.ndarray) -> np.ndarray:
    return NomadProjection(**SETTINGS).fit_transform(x)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary workspaces are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_a_stopped_layout_is_there_and_goes_on(x, plain, epoch_by_epoch, places):
    nomad = NomadProjection(**SETTINGS, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted, match=r"after 1 of 10 epochs; fit\(X, resume=True\) continues the fit"):
        nomad.fit(x)
    assert (nomad.n_epochs_, nomad.is_complete_, nomad.diagnostics_["epochs"]) == (1, False, 1)
    assert nomad.embedding_.shape == plain.shape
    assert np.isfinite(nomad.embedding_).all()
    np.testing.assert_array_equal(nomad.map_.positions, nomad.embedding_)
    assert nomad.map_.metadata["partial"] == {"epochs": 1, "of": 10}
    event_log = EventLog()
    nomad.set_params(callbacks=[event_log])
    assert nomad.fit(x, resume=True) is nomad
    np.testing.assert_array_equal(nomad.embedding_, plain)
    assert [event.epoch for event in event_log.of(EpochDone)] == list(range(2, 11))
    assert [f.stage for f in event_log.of(StageFinished) if f.resumed] == ["sample", "cells", "shards", "neighbors"]
    assert (nomad.n_epochs_, nomad.is_complete_) == (10, True)
    assert "partial" not in nomad.map_.metadata
    assert list(places.glob("nomad-*")) == [nomad.model_.path.parent]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_partial_map_is_the_layout_at_that_epoch(x, epoch_by_epoch, monkeypatch):
    monkeypatch.setattr("nomad_dask.layout.snapshots._COST", 0)
    nomad = NomadProjection(**SETTINGS, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted):
        nomad.fit(x)

    class Seen:
        """Keeps where all rows are."""

        snapshot_request = SnapshotRequest(0.0, 600)
        at: np.ndarray

        def __call__(self, event: Event) -> None:
            if isinstance(event, LayoutSnapshot) and event.epoch == 1:
                self.at = event.positions[np.argsort(event.rows)]

    seen = Seen()
    NomadProjection(**SETTINGS, callbacks=[seen]).fit(x)
    np.testing.assert_array_equal(nomad.embedding_, seen.at)


def test_stopped_before_the_layout_there_is_no_map(x, plain, places):
    nomad = NomadProjection(**SETTINGS, callbacks=[CtrlC(StageAdvanced)])
    with pytest.raises(Interrupted, match="The layout has not started"):
        nomad.fit(x)
    assert not hasattr(nomad, "embedding_")
    np.testing.assert_array_equal(nomad.set_params(callbacks=None).fit_transform(x, resume=True), plain)


def test_stopped_again_and_again(x, plain, epoch_by_epoch):
    nomad = NomadProjection(**SETTINGS)
    for resume in (False, True, True):
        nomad.set_params(callbacks=[CtrlC(EpochDone)])
        with pytest.raises(Interrupted):
            nomad.fit(x, resume=resume)
    assert nomad.n_epochs_ == 3
    np.testing.assert_array_equal(nomad.set_params(callbacks=None).fit(x, resume=True).embedding_, plain)


def test_a_drawn_seed_is_kept(x, epoch_by_epoch):
    nomad = NomadProjection(**SETTINGS, random_state=None, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted):
        nomad.fit(x)
    seed = nomad.seed_
    nomad.set_params(callbacks=None).fit(x, resume=True)
    assert nomad.seed_ == seed
    np.testing.assert_array_equal(nomad.embedding_, NomadProjection(**SETTINGS, random_state=seed).fit_transform(x))


def test_in_a_workspace_another_estimator_can_go_on(x, plain, epoch_by_epoch, tmp_path):
    settings = SETTINGS | {"workspace": tmp_path / "w"}
    with pytest.raises(Interrupted, match="Completed work is kept in"):
        NomadProjection(**settings, callbacks=[CtrlC(EpochDone)]).fit(x)
    np.testing.assert_array_equal(NomadProjection(**settings).fit_transform(x, resume=True), plain)


def test_nothing_to_resume(x, tmp_path):
    with pytest.raises(InputError, match=r"There is nothing to resume: no fit was stopped"):
        NomadProjection(**SETTINGS).fit(x, resume=True)
    with pytest.raises(InputError, match=r"nothing to resume in .*none"):
        NomadProjection(**SETTINGS, workspace=tmp_path / "none").fit(x, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        NomadProjection(**SETTINGS).fit(x).fit(x, resume=True)


def test_other_settings_are_refused_and_cost_nothing(x, plain, epoch_by_epoch):
    nomad = NomadProjection(**SETTINGS, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted):
        nomad.fit(x)
    with pytest.raises(WorkspaceError, match="n_epochs: 10 in the workspace, 40 requested"):
        nomad.set_params(n_epochs=40).fit(x, resume=True)
    with pytest.raises(WorkspaceError, match=r"source: "):
        nomad.set_params(n_epochs=10).fit(x + 1, resume=True)
    np.testing.assert_array_equal(nomad.fit(x, resume=True).embedding_, plain)


def test_the_workspace_goes_with_the_estimator(x, epoch_by_epoch, places):
    nomad = NomadProjection(**SETTINGS, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted):
        nomad.fit(x)
    assert len(list(places.glob("nomad-*"))) == 1
    copies = [clone(nomad), pickle.loads(pickle.dumps(nomad.set_params(callbacks=None)))]
    np.testing.assert_array_equal(copies[1].embedding_, nomad.embedding_)
    for copy in copies:
        with pytest.raises(InputError, match="nothing to resume"):
            copy.fit(x, resume=True)
    del nomad, copies, copy
    gc.collect()
    assert list(places.glob("nomad-*")) == []


def test_the_second_signal_is_let_through():
    with pytest.raises(KeyboardInterrupt), graceful_interrupt() as asked:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.wait(5)
        os.kill(os.getpid(), signal.SIGINT)
        asked.clear()
        raise AssertionError("went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_signals_are_left_alone():
    found = []

    def work() -> None:
        with graceful_interrupt() as asked:
            found.append((asked.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.default_int_handler)]


SCRIPT = """
import json, sys, time
from pathlib import Path
import numpy as np
from nomad_dask import NomadProjection
from nomad_dask.errors import Interrupted
from nomad_dask.callbacks import EpochDone

def slow(event):
    if isinstance(event, EpochDone):
        Path("epoch").write_text(str(event.epoch))
        time.sleep(0.02)

if __name__ == "__main__":
    x = np.load("x.npy")
    nomad = NomadProjection(n_epochs=150, n_shards=2, n_workers=2, callbacks=[slow])
    try:
        nomad.fit(x)
    except Interrupted as stop:
        facts = {"said": str(stop), "epochs": nomad.n_epochs_, "rows": len(nomad.embedding_)}
        nomad.set_params(callbacks=None, n_workers=None).fit(x, resume=True)
        np.save("map.npy", nomad.embedding_)
        print(json.dumps(facts))
"""


def test_a_real_signal_and_real_workers(tmp_path):
    """The signal comes from outside, at some moment of the layout."""
    x = blobs(600, n_dims=8)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until((tmp_path / "epoch").exists)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    facts = json.loads(said)
    assert facts["rows"] == 600
    assert 1 <= facts["epochs"] < 150
    assert f"after {facts['epochs']} of 150 epochs" in facts["said"]
    plain = NomadProjection(n_epochs=150, n_shards=2).fit_transform(x)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), plain)
