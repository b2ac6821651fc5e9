"""Fits in forked processes work, or are refused at once: a fork copies locks, and no thread that releases them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nomad_dask import NomadProjection
from nomad_dask.callbacks import EpochDone, StageFinished
from nomad_dask.cluster.worker_state import PROCESS_LOCK
from nomad_dask.errors import ClusterError, Interrupted
from tests.helpers.runs import CtrlC, EventLog, blobs, worker_processes

# A test that takes longer is called a hang.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
FORK = multiprocessing.get_context("fork")


def fit(changes: dict[str, Any]) -> np.ndarray | tuple[str, float]:
    """Return the map, or the error and its seconds."""
    started = time.monotonic()
    try:
        return NomadProjection(**{"n_epochs": 5, "n_shards": 2} | changes).fit_transform(blobs(600))
    except ClusterError as error:
        return str(error), time.monotonic() - started


def fit_in_fork(changes: dict[str, Any]) -> Any:
    answers = FORK.SimpleQueue()
    process = FORK.Process(target=lambda: answers.put(fit(changes)))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answers.get()


@pytest.fixture(scope="module")
def made_here() -> Any:
    return fit({})


def test_a_pool_of_forked_processes_makes_the_same_map(made_here):
    with FORK.Pool(2) as pool:
        for made in pool.map_async(fit, [{}, {}, {}]).get(60):
            np.testing.assert_array_equal(made, made_here)


def test_a_pool_cannot_start_worker_processes(made_here):
    with FORK.Pool(1) as pool:
        message, _ = pool.apply_async(fit, [{"n_workers": 2}]).get(60)
    assert "cannot start worker processes, because it is daemonic" in message
    assert "leave n_workers out" in message


def test_a_fork_during_a_fit_is_refused(made_here):
    with PROCESS_LOCK:  # as held by a task
        message, seconds = fit_in_fork({})
    assert "was forked while a fit was running in its parent" in message
    assert "'spawn'" in message
    assert seconds < 5
    np.testing.assert_array_equal(fit_in_fork({}), made_here)


def test_a_client_of_the_parent_is_refused(made_here):
    with worker_processes(1) as client:
        message, seconds = fit_in_fork({"client": client})
        assert "forked after the client was created" in message
        assert seconds < 5
        np.testing.assert_array_equal(fit({"client": client}), made_here)
        np.testing.assert_array_equal(fit_in_fork({"client": client.scheduler.address}), made_here)


def in_fork(function: Callable[[], None]) -> int:
    """Return the exit code of a child that `os.fork` makes, which exits as a whole program does, with `atexit`."""
    child = os.fork()
    if not child:
        try:
            function()
            atexit._run_exitfuncs()
        except BaseException:  # noqa: BLE001 - pytest of the parent must not go on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("what", ["exit", "fit", "resume"])
def test_the_stopped_work_of_an_estimator_is_not_removed_by_a_fork(made_here, epoch_by_epoch, what):
    """A forked process has a copy of the estimator, and drops it, for a new fit or at its end."""
    stopped = NomadProjection(n_epochs=5, n_shards=2, callbacks=[CtrlC(EpochDone)])
    with pytest.raises(Interrupted, match="after 1 of 5 epochs"):
        stopped.fit(blobs(600))
    stopped.set_params(callbacks=None)
    temporary = stopped._temporary_workspace.path.parent

    def use() -> None:
        if what != "exit":
            made = stopped.fit_transform(blobs(600), resume=what == "resume")
            np.testing.assert_array_equal(made, made_here)

    assert in_fork(use) == 0
    event_log = EventLog()
    stopped.set_params(callbacks=[event_log])
    np.testing.assert_array_equal(stopped.fit_transform(blobs(600), resume=True), made_here)
    assert event_log.of(StageFinished)[0].resumed
    assert not temporary.exists()
