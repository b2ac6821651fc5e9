"""Parents of the cells by K-Means on the GPUs of several workers, with a stand-in for cuML's class."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest

from nomad_dask.backends import cuml_kmeans, kmeans_tree
from nomad_dask.backends.devices import Gpu, detect_gpu
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.cluster import connect
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.runs import blobs, make_map, worker_processes

N_CELLS = 40
STAND_IN = """
import json, os, time
from pathlib import Path

class KMeans:
    def __init__(self, *, client, n_clusters, init, max_iter, random_state):
        assert 0 <= random_state < 2**32
        assert init == "scalable-k-means++"
        self.client, self.n_clusters, self.max_iter, self.random_state = client, n_clusters, max_iter, random_state

    def fit(self, x):
        from sklearn.cluster import KMeans
        from tests.helpers.device_arrays import to_card
        x = self.client.persist(x)
        rows = self.client.compute(x).result()
        holders = {address for addresses in self.client.who_has(x).values() for address in addresses}
        called = {"n_clusters": self.n_clusters, "seed": self.random_state, "rows": len(rows), "holders": len(holders)}
        with (Path(__file__).parent / "calls").open("a") as calls:
            calls.write(json.dumps(called) + "\\n")
        if os.environ["STAND_IN"] == "fails":
            raise RuntimeError("NCCL error 5")
        if os.environ["STAND_IN"] == "hangs":
            workers = list(self.client.scheduler_info()["workers"])
            hung = [self.client.submit(time.sleep, 3600, workers=[w], pure=False) for w in workers]
            self.client.gather(hung)
        model = KMeans(self.n_clusters, n_init=1, max_iter=self.max_iter, random_state=self.random_state).fit(rows)
        self.cluster_centers_ = to_card(model.cluster_centers_)
        return self
"""


@pytest.fixture
def cuml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install packages for this process; yield the file in which K-Means writes how it is called."""
    folder = tmp_path / "packages"
    for name in ("cuml", "cuml/dask", "cuml/dask/cluster", "dask_cudf", "raft_dask"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(STAND_IN if name.endswith("cluster") else "")
    before = dict(sys.modules)
    for name in list(sys.modules):
        if name.split(".")[0] in cuml_kmeans.PACKAGES:
            del sys.modules[name]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("STAND_IN", "works")
    monkeypatch.setattr(kmeans_tree, "MAX_FLAT_CELLS", 30)
    PROCESS_RUNTIME.set(HostRuntime())
    yield folder / "cuml/dask/cluster/calls"
    PROCESS_RUNTIME.set(None)
    sys.modules.clear()
    sys.modules.update(before)


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    with worker_processes(2, preload="tests.helpers.host_runtime") as client:
        yield client


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(700, n_dims=6)


def positions(x: np.ndarray, client: Any, **settings: Any) -> np.ndarray:
    found = make_map(x, client=client, device="gpu", n_epochs=2, n_cells=N_CELLS, n_shards=1, **settings).positions
    assert np.isfinite(found).all()
    return found


def read(calls: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_all_workers_fit_the_parents(x, workers, cuml, caplog):
    found = positions(x, workers, random_state=2**32 + 5)
    assert found.shape == (700, 2)
    assert read(cuml) == [{"n_clusters": 6, "seed": 5, "rows": 700, "holders": 2}]
    assert "K-Means" not in caplog.text


def test_a_failure_is_logged_and_one_worker_fits_the_cells(x, workers, cuml, monkeypatch, caplog):
    monkeypatch.setenv("STAND_IN", "fails")
    pids = set(workers.run(os.getpid).values())
    found = positions(x, workers)
    (warned,) = [record for record in caplog.records if "K-Means" in record.message]
    assert warned.levelno == logging.WARNING
    assert "failed (RuntimeError: NCCL error 5): one worker fits the cells" in warned.message
    assert set(workers.run(os.getpid).values()) == pids
    monkeypatch.setattr(cuml_kmeans, "PACKAGES", ("no_such_package",))
    np.testing.assert_array_equal(found, positions(x, workers))
    assert len(read(cuml)) == 1


def test_workers_that_wait_without_end_are_restarted(x, cuml, monkeypatch, caplog):
    monkeypatch.setenv("STAND_IN", "hangs")
    with worker_processes(2, preload="tests.helpers.host_runtime") as client:
        pids = set(client.run(os.getpid).values())
        with dask.config.set({"nomad-dask.kmeans-within": "20 s"}):
            positions(x, client)
        assert pids.isdisjoint(client.run(os.getpid).values())
    assert "failed (TimeLimitError: not done within 20 s, the setting nomad-dask.kmeans-within)" in caplog.text


@pytest.mark.skipif(isinstance(detect_gpu(), Gpu), reason="there is a GPU here")
def test_without_parents_or_gpus_one_worker_fits_the_cells(x, workers, cuml, monkeypatch):
    with connect(client=workers, device="gpu") as cluster:
        assert cluster.has_gpu_for_each()
        one = next(iter(cluster.gpus.values()))
        monkeypatch.setattr(cluster, "gpus", dict.fromkeys(cluster.gpus, one))
        assert not cluster.has_gpu_for_each()
    with connect(client=workers, device="cpu") as cluster:
        assert not cluster.has_gpu_for_each()
    with monkeypatch.context() as patch:
        patch.setattr(kmeans_tree, "MAX_FLAT_CELLS", N_CELLS)
        positions(x, workers)
    PROCESS_RUNTIME.set(None)  # the result would have no GPU to be on
    positions(x, workers)
    assert not cuml.exists()
