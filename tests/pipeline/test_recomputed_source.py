"""A source that is computed for every pass must give the same rows, in all processes and after a resume."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from nomad_dask import NomadProjection
from nomad_dask.errors import InputError
from tests.helpers.runs import blobs, worker_processes

X = blobs(300, n_dims=6)


def computed(changed: bool = False):
    """The same array by its name, with or without another number in row 250."""

    def block(block_id=None):
        rows = X[100 * block_id[0] : 100 * block_id[0] + 100].copy()
        rows[50, 0] += changed and block_id[0] == 2
        return rows

    return da.map_blocks(block, chunks=((100,) * 3, (6,)), dtype="f4", meta=np.empty((0, 0), "f4"), name="computed")


def random_rows():
    def block(block_id=None):
        return np.random.default_rng().standard_normal((100, 6)).astype("f4")

    return da.map_blocks(block, chunks=((100,) * 3, (6,)), dtype="f4", meta=np.empty((0, 0), "f4"))


def estimator(**more):
    return NomadProjection(n_epochs=3, device="cpu", **more)


@pytest.fixture(scope="module")
def client():
    with worker_processes(1) as client:
        yield client


@pytest.mark.parametrize("in_processes", [False, True])
def test_random_rows_are_refused(client, in_processes):
    with pytest.raises(InputError, match=r"partition \d of the Dask array .*does not produce the same rows each time"):
        estimator(client=client if in_processes else None).fit(random_rows())


def test_what_is_computed_again_is_the_same_map(client):
    expected = estimator().fit_transform(X)
    np.testing.assert_array_equal(estimator().fit_transform(computed()), expected)
    np.testing.assert_array_equal(estimator(client=client).fit_transform(computed()), expected)
    # Results on the cluster are copied to the workspace.
    np.testing.assert_array_equal(estimator(client=client).fit_transform(computed().persist()), expected)


@pytest.mark.parametrize("persisted", [False, True])
def test_other_rows_in_a_resumed_run(tmp_path, monkeypatch, client, persisted):
    """Dask gives both the same name, so that the run goes on, and finds the difference."""

    def stop(*_):
        raise RuntimeError("stopped between the passes")

    def data(changed):
        return computed(changed).persist() if persisted else computed(changed)

    fit = estimator(workspace=tmp_path / "w", client=client)
    with monkeypatch.context() as patch:
        patch.setattr("nomad_dask.pipeline.stage_functions.fit_cells_stage", stop)
        with pytest.raises(Exception, match="stopped between the passes"):
            fit.fit(data(False))
    with pytest.raises(InputError, match=r"partition 2 of the Dask array \(rows 200 to 299\) has other values"):
        fit.fit(data(True))
